/* Handles the signals that ask a program to end. No handler is installed: all threads block these signals,
 * and one thread waits for them. So no frame of a handler ever lands on a stack that a library has moved
 * (docs/dependencies.md, oneDNN), and no system call is interrupted. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli.h"

/* SIGQUIT is not among them: it ends the program at once, with a core dump. */
static const int ends[] = {SIGINT, SIGTERM, SIGHUP};

static sigset_t awaited;
/* SIGINT was ignored when the program began, as in a background job of a shell, which Ctrl-C is not meant
 * for; only a SIGINT sent with kill counts then */
static bool only_by_kill;
static atomic_int asked;   /* the signal that asked to stop; 0: none */
static atomic_bool gentle; /* the first one only asks */
static _Atomic(const char *) notice;
static sem_t woken;

static _Noreturn void end_by(int number)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    raise(number); /* raised for this thread, which unblocks it now */
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    _exit(128 + number); /* reached in the first process of a container, which signals do not end */
}

/* The signal that was sent to a single thread (tgkill), or 0. Such a signal stays pending in that thread,
 * because it is blocked there; the thread's file in /proc shows it. */
static int sent_to_a_thread(void)
{
    int found = 0;
    DIR *threads = opendir("/proc/self/task");
    for (struct dirent *d; threads && !found && (d = readdir(threads));) {
        char path[64 + sizeof d->d_name], line[256];
        unsigned long long pending = 0;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
        FILE *f = *d->d_name == '.' ? NULL : fopen(path, "re");
        while (f && fgets(line, sizeof line, f) && sscanf(line, "SigPnd: %llx", &pending) != 1)
            ;
        if (f)
            fclose(f);
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
            if (sigismember(&awaited, ends[i]) == 1 && pending >> (ends[i] - 1) & 1)
                found = ends[i];
    }
    if (threads)
        closedir(threads);
    return found;
}

static void *await(void *unused)
{
    /* `timeout` and others signal the process and then its group; within this time, two signals count
     * as one */
    enum { AGAIN_MS = 200 };
    double first_s = 0;
    bool told = false;
    prctl(PR_SET_NAME, "signals");
    for (;;) {
        siginfo_t info = {0};
        const struct timespec second = {.tv_sec = 1};
        int number = sigtimedwait(&awaited, &info, &second);
        if (number < 0 && errno == EAGAIN && !atomic_load(&asked))
            number = sent_to_a_thread();
        else if (number == SIGINT && only_by_kill && info.si_code == SI_KERNEL)
            continue;
        const double now_s = cli_now_s();
        const char *text = atomic_load(&notice);
        if (number > 0 &&
            (!atomic_load(&gentle) || (atomic_load(&asked) && now_s - first_s > AGAIN_MS / 1e3)))
            end_by(number);
        if (number > 0 && !atomic_load(&asked)) {
            first_s = now_s;
            told = false;
            atomic_store(&asked, number);
            sem_post(&woken);
        } else if (number < 0 && atomic_load(&asked) && text && !told && isatty(STDERR_FILENO)) {
            told = true;
            fprintf(stderr, "\n%s\n", text);
        }
    }
    return unused;
}

void cli_signals_begin(void)
{
    pthread_t thread;
    sigemptyset(&awaited);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct sigaction before;
        if (sigaction(ends[i], NULL, &before))
            continue;
        /* ignored since before the program began (nohup, say): it stays ignored */
        const bool ignored = before.sa_handler == SIG_IGN;
        if (ignored && ends[i] != SIGINT)
            continue;
        only_by_kill = only_by_kill || ignored;
        sigaddset(&awaited, ends[i]);
    }
    sem_init(&woken, 0, 0);
    pthread_sigmask(SIG_BLOCK, &awaited, NULL);
    if (only_by_kill)
        signal(SIGINT, SIG_DFL);
    /* without the waiting thread, each of them ends the program at once */
    if (pthread_create(&thread, NULL, await, NULL))
        pthread_sigmask(SIG_UNBLOCK, &awaited, NULL);
    else
        pthread_detach(thread);
}

void cli_stop_gently(const char *text)
{
    atomic_store(&notice, text);
    atomic_store(&gentle, true);
}

int cli_stop_asked(void)
{
    return atomic_load(&asked);
}

void cli_stop_at_once(void)
{
    atomic_store(&gentle, false);
    if (atomic_load(&asked))
        end_by(atomic_load(&asked));
}

void cli_stop_forget(void)
{
    atomic_store(&asked, 0);
}

void cli_stop_wait(void)
{
    while (!atomic_load(&asked))
        sem_wait(&woken);
}
