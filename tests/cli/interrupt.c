/* interrupt SIGNAL DELAY_US HOW COMMAND...: start the command in a process group of its own, send it the
 * signal after the delay, and exit with the status a shell would give; 124: it had to be killed after
 * 120 s. HOW: process, group, or the seed of a thread to send it to (tgkill). What the command prints
 * goes where this program's output goes. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* One of the process's threads. */
static long thread_of(pid_t process, unsigned long seed)
{
    long threads[1024];
    unsigned long n = 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)process);
    DIR *d = opendir(path);
    for (struct dirent *e; d && n < 1024 && (e = readdir(d));)
        if (*e->d_name != '.')
            threads[n++] = strtol(e->d_name, NULL, 10);
    if (d)
        closedir(d);
    return n ? threads[seed % n] : process;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    const int number = atoi(argv[1]);
    const pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        execvp(argv[4], argv + 4);
        _exit(127);
    }
    setpgid(child, child);
    usleep((useconds_t)strtoul(argv[2], NULL, 10));
    if (!strcmp(argv[3], "process"))
        kill(child, number);
    else if (!strcmp(argv[3], "group"))
        kill(-child, number);
    else
        while (syscall(SYS_tgkill, child, thread_of(child, strtoul(argv[3], NULL, 10)), number) &&
               kill(child, 0) == 0)
            ; /* that thread has ended in between: another one */
    int status;
    pid_t got = 0;
    for (int i = 0; i < 24000 && !got; i++)
        if (!(got = waitpid(child, &status, WNOHANG)))
            usleep(5000);
    if (!got) {
        kill(-child, SIGKILL);
        return 124;
    }
    if (got != child)
        return 126;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
