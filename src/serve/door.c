/* The door: one thread with epoll. libmicrohttpd would give a slow client a state in its table at once; here
 * a connection costs a small struct until its request's head is whole. */
#include "serve/door.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/time.h"
#include "serve/answer.h"
#include "request/head.h"

enum {
    MAX_LISTENERS = 8, /* addresses of one name */
    TICK_MS = 100,     /* how often clients are looked after */
    EVENTS = 64,
    BACKLOG = 512
};
/* a refused client's own bytes are read for so long: closing earlier could take the answer from it */
static const double LINGER_S = 1;
static const double HAND_OVER_S = 10;

/* GONE: closed, to be freed by the door's thread */
typedef enum guest_state { AT_DOOR = 0, LINGERS, HANDED, TAKEN, GONE } guest_state;

struct kq_guest {
    int fd;
    guest_state state;
    unsigned char address[16];
    struct sockaddr_storage from;
    socklen_t from_size;
    double since; /* of the request that is arriving; 0: none is */
    double moved; /* connected, handed over or answered last */
    bool busy;    /* a request is arriving (its head is whole) or being answered */
    bool sent_away;
    kq_query *query; /* borrowed; NULL: none at work */
    bool left;
    kq_guest *next, *before;
};

struct kq_door {
    kq_door_options opt;
    int listener[MAX_LISTENERS];
    size_t n_listeners;
    int epoll;
    unsigned port;
    bool loopback, shut, stop, started;
    pthread_t thread;
    pthread_mutex_t lock; /* guests and the flags */
    kq_guest *guests;
    char *head; /* owned [KQ_HEAD_BYTES] */
};

/* ---- listening ---- */

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static void set_port(struct sockaddr *a, unsigned port)
{
    *(a->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)a)->sin6_port
                               : &((struct sockaddr_in *)a)->sin_port) = htons((uint16_t)port);
}

/* Bind and listen. SO_REUSEADDR without SO_REUSEPORT: a port in TIME_WAIT can be had, one that somebody
 * listens on cannot. -1: see errno. */
static int listen_on(const struct addrinfo *a, unsigned port)
{
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_storage where;
    memcpy(&where, a->ai_addr, a->ai_addrlen);
    set_port((struct sockaddr *)&where, port);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (a->ai_family ==
        AF_INET6) { /* "::" is every address of the machine, IPv4's too; others are what they say */
        const int only = !IN6_IS_ADDR_UNSPECIFIED(&((struct sockaddr_in6 *)&where)->sin6_addr);
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
    if (bind(fd, (struct sockaddr *)&where, a->ai_addrlen) || listen(fd, BACKLOG)) {
        const int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

static unsigned port_of(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    getsockname(fd, (struct sockaddr *)&a, &n);
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

static void close_listeners(kq_door *d)
{
    for (size_t i = 0; i < d->n_listeners; i++)
        close(d->listener[i]);
    d->n_listeners = 0;
}

/* All addresses of the list at one port. An address that this machine lacks is passed over when another
 * one can be had (localhost without IPv6). 0, else errno. */
static int listen_all(kq_door *d, const struct addrinfo *list)
{
    int why = EADDRNOTAVAIL;
    d->port = d->opt.port;
    d->loopback = true;
    for (const struct addrinfo *a = list; a && d->n_listeners < MAX_LISTENERS; a = a->ai_next) {
        bool again = a->ai_family != AF_INET && a->ai_family != AF_INET6;
        for (const struct addrinfo *b = list; b != a && !again; b = b->ai_next)
            again = a->ai_addrlen == b->ai_addrlen && !memcmp(a->ai_addr, b->ai_addr, a->ai_addrlen);
        if (again)
            continue;
        const int fd = listen_on(a, d->port);
        if (fd < 0 && (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)) {
            why = errno;
            continue;
        }
        if (fd < 0) {
            why = errno;
            close_listeners(d);
            return why;
        }
        d->listener[d->n_listeners++] = fd;
        d->port = port_of(fd);
        d->loopback = d->loopback && is_loopback(a->ai_addr);
    }
    return d->n_listeners ? 0 : why;
}

static kq_status open_listeners(kq_door *d, kq_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE},
                    *list = NULL;
    char host[256];
    const size_t n = strlen(d->opt.host);
    const bool brackets = n > 2 && d->opt.host[0] == '[' && d->opt.host[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s",
             (int)(brackets          ? n - 2
                   : n < sizeof host ? n
                                     : sizeof host),
             d->opt.host + brackets);
    const int rc = *host ? getaddrinfo(host, NULL, &hints, &list) : EAI_NONAME;
    if (rc)
        return kq_fail(err, KQ_E_IO, "--host '%.200s': %s; an address or a name of this machine is expected",
                       d->opt.host, gai_strerror(rc));
    int why = EADDRINUSE;
    for (int tries = 0; tries < 16 && why == EADDRINUSE;
         tries++) { /* a free port of one address may be taken on the next */
        why = listen_all(d, list);
        if (d->opt.port)
            break;
    }
    freeaddrinfo(list);
    if (why == EADDRINUSE)
        return kq_fail(err, KQ_E_IO,
                       "--port %u: another program listens on it (host %.200s); end that one, "
                       "or give another port (0: any free one)",
                       d->opt.port, d->opt.host);
    if (why)
        return kq_fail(err, KQ_E_IO, "--host %.200s --port %u: cannot listen there: %s", d->opt.host,
                       d->opt.port, strerror(why));
    return KQ_OK;
}

kq_status kq_door_open(const kq_door_options *opt, kq_door **out, kq_error *err)
{
    kq_door *d = kq_calloc(1, sizeof *d);
    kq_status st;
    *out = NULL;
    if (!d)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the server's door");
    d->opt = *opt;
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    d->head = kq_alloc(KQ_HEAD_BYTES, 1);
    pthread_mutex_init(&d->lock, NULL);
    st = d->epoll < 0 || !d->head ? kq_fail(err, KQ_E_MEMORY, "out of memory: the server's door")
                                  : open_listeners(d, err);
    for (size_t i = 0; !st && i < d->n_listeners; i++)
        if (epoll_ctl(d->epoll, EPOLL_CTL_ADD, d->listener[i],
                      &(struct epoll_event){.events = EPOLLIN, .data.ptr = &d->listener[i]}))
            st = kq_fail(err, KQ_E_IO, "cannot watch the listening socket: %s", strerror(errno));
    if (st) {
        kq_door_free(d);
        return st;
    }
    *out = d;
    return KQ_OK;
}

unsigned kq_door_port(const kq_door *d)
{
    return d->port;
}
bool kq_door_loopback(const kq_door *d)
{
    return d->loopback;
}

/* ---- guests (all under the lock) ---- */

static void unlink_guest(kq_door *d, kq_guest *g)
{
    *(g->before ? &g->before->next : &d->guests) = g->next;
    if (g->next)
        g->next->before = g->before;
    kq_free(g);
}

static bool at_door(const kq_guest *g)
{
    return g->state == AT_DOOR || g->state == LINGERS;
}

/* A guest at the door goes: only the door's thread closes these, and it frees them when no event can
 * name them any more. */
static void close_guest(kq_guest *g)
{
    close(g->fd);
    g->fd = -1;
    g->state = GONE;
}

/* Read and forget what a refused client still sends. */
static void drain(kq_door *d, kq_guest *g)
{
    ssize_t n;
    for (int k = 0; (n = recv(g->fd, d->head, KQ_HEAD_BYTES, 0)) > 0 && k < 32; k++) {}
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        close_guest(g);
}

static void answer_at_door(kq_door *d, kq_guest *g, const kq_api_error *e)
{
    static const struct {
        int status;
        const char *words;
    } reason[] = {{400, "Bad Request"},
                  {408, "Request Timeout"},
                  {414, "URI Too Long"},
                  {417, "Expectation Failed"},
                  {431, "Request Header Fields Too Large"},
                  {501, "Not Implemented"},
                  {503, "Service Unavailable"},
                  {505, "HTTP Version Not Supported"}};
    const char *words = "Bad Request";
    char out[2048];
    json_t *j = kq_answer_error(e);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    for (size_t i = 0; i < sizeof reason / sizeof *reason; i++)
        words = reason[i].status == e->http ? reason[i].words : words;
    const int n = snprintf(out, sizeof out,
                           "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                           "Connection: close\r\n\r\n%s",
                           e->http, words, text ? strlen(text) : 0, text ? text : "");
    free(text);
    if (n > 0 && send(g->fd, out, (size_t)n < sizeof out ? (size_t)n : sizeof out - 1, MSG_NOSIGNAL) < 0)
        shutdown(g->fd, SHUT_RDWR);
    shutdown(g->fd, SHUT_WR);
    g->state = LINGERS;
    g->moved = kq_now_s();
    if (d->opt.refused)
        d->opt.refused(d->opt.ctx, e);
    drain(d, g);
}

/* Close the connection that has been without a request for the longest, or, when there is none, the one
 * whose request has been arriving for the longest. address NULL: of any client. False: the requests of
 * all are whole and at work. */
static bool send_one_away(kq_door *d, const unsigned char *address)
{
    kq_guest *idlest = NULL, *slowest = NULL;
    for (kq_guest *g = d->guests; g; g = g->next) {
        const bool idle = g->state == AT_DOOR || g->state == LINGERS || (g->state == TAKEN && !g->busy),
                   arriving = g->state == TAKEN && g->busy && g->since > 0;
        if (g->sent_away || (address && memcmp(g->address, address, sizeof g->address)))
            continue;
        if (idle && (!idlest || g->moved < idlest->moved))
            idlest = g;
        if (arriving && (!slowest || g->since < slowest->since))
            slowest = g;
    }
    if (!idlest && !(idlest = slowest))
        return false;
    idlest->sent_away = true;
    if (at_door(idlest))
        close_guest(idlest);
    else
        shutdown(idlest->fd, SHUT_RDWR);
    return true;
}

/* Is there room for one more of this address, by sending idle ones away if need be? */
static bool make_room(kq_door *d, const unsigned char *address)
{
    size_t all = 0, same = 0;
    for (const kq_guest *g = d->guests; g; g = g->next)
        if (g->state != GONE && !g->sent_away) {
            all++;
            same += !memcmp(g->address, address, sizeof g->address);
        }
    if (same >= d->opt.max_per_address)
        return send_one_away(d, address);
    return all < d->opt.max_connections || send_one_away(d, NULL);
}

static void address_bytes(const struct sockaddr_storage *a, unsigned char out[16])
{
    memset(out, 0, 16);
    if (a->ss_family == AF_INET6)
        memcpy(out, &((const struct sockaddr_in6 *)a)->sin6_addr, 16);
    else
        memcpy(out + 12, &((const struct sockaddr_in *)a)->sin_addr, 4);
    if (a->ss_family == AF_INET)
        out[10] = out[11] = 0xFF; /* as "::" shows an IPv4 client */
}

static void welcome(kq_door *d, int fd, const struct sockaddr_storage *from, socklen_t size)
{
    /* whoever had this number is gone, and has not said so */
    for (kq_guest *g = d->guests, *next; g; g = next) {
        next = g->next;
        if (g->fd == fd)
            unlink_guest(d, g);
    }
    kq_guest *g = kq_calloc(1, sizeof *g);
    if (!g) {
        close(fd);
        return;
    }
    g->fd = fd;
    g->moved = kq_now_s();
    g->from = *from;
    g->from_size = size;
    address_bytes(from, g->address);
    const bool room = make_room(d, g->address);
    g->next = d->guests;
    if (g->next)
        g->next->before = g;
    d->guests = g;
    if (epoll_ctl(d->epoll, EPOLL_CTL_ADD, fd,
                  &(struct epoll_event){.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = g})) {
        close_guest(g);
    } else if (!room) {
        kq_api_error e;
        kq_api_fail(&e, 503, NULL, "too_many_connections",
                    "too many requests are at work on other connections; try again later");
        answer_at_door(d, g, &e);
    }
}

static void accept_all(kq_door *d, int listener)
{
    for (;;) {
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        const int fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            welcome(d, fd, &from, size);
        else if ((errno == EMFILE || errno == ENFILE) &&
                 send_one_away(d, NULL)) /* no file descriptor is left: an idle client's will do */
            return;
        else if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

/* Something came from a guest, or it left. */
static void on_guest_event(kq_door *d, kq_guest *g, unsigned events)
{
    kq_api_error e;
    if (g->state == LINGERS) {
        drain(d, g);
        return;
    }
    if (g->state != AT_DOOR)
        return;
    /* the bytes stay for whoever takes over */
    const ssize_t n = recv(g->fd, d->head, KQ_HEAD_BYTES, MSG_PEEK);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            close_guest(g);
        return;
    }
    if (!(g->since > 0))
        g->since = kq_now_s();
    const kq_head_state s = kq_head_read(d->head, (size_t)n, &e);
    if (s == KQ_HEAD_BAD) {
        answer_at_door(d, g, &e);
    } else if (s == KQ_HEAD_MORE) {
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            close_guest(g);
    } else {
        epoll_ctl(d->epoll, EPOLL_CTL_DEL, g->fd, NULL);
        g->state = HANDED;
        g->moved = kq_now_s();
        const int fd = g->fd;
        pthread_mutex_unlock(&d->lock); /* whoever takes over may call back at once */
        const bool taken = d->opt.hand_over(d->opt.ctx, fd, (struct sockaddr *)&g->from, g->from_size);
        pthread_mutex_lock(&d->lock);
        if (!taken)
            for (kq_guest *k = d->guests; k; k = k->next)
                if (k == g && k->state == HANDED) {
                    k->fd = -1;
                    k->state = GONE;
                }
    }
}

/* ---- looking after them ---- */

/* A client that has left is nobody to compute for; one that sends too slowly holds what others need. The
 * HTTP library sees neither: it does not watch a connection whose answer is being computed, and a byte a
 * second is not idle. */
static void look_after(kq_door *d, kq_guest *g, double now)
{
    if (g->state == AT_DOOR && g->since > 0 && now - g->since > d->opt.receive_s) {
        kq_api_error e;
        kq_api_fail(&e, 408, NULL, "request_timeout", "the request did not arrive within %g seconds",
                    d->opt.receive_s);
        answer_at_door(d, g, &e);
    } else if ((g->state == AT_DOOR && !(g->since > 0) && now - g->moved > d->opt.idle_s) ||
               (g->state == LINGERS && now - g->moved > LINGER_S)) {
        close_guest(g);
    } else if (g->state == HANDED &&
               now - g->moved > HAND_OVER_S) { /* the library closed it, and said nothing */
        g->fd = -1;
        g->state = GONE;
    } else if (g->state == TAKEN) {
        struct pollfd p = {.fd = g->fd, .events = POLLRDHUP};
        const bool left = poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR),
                   idle = !g->busy && now - g->moved > LINGER_S;
        if ((g->since > 0 && now - g->since > d->opt.receive_s) ||
            (!g->busy && now - g->moved > d->opt.idle_s + d->opt.receive_s) || (left && idle))
            shutdown(g->fd, SHUT_RDWR); /* the last: the library may miss that nothing more comes */
        if (g->query && !g->left && left) {
            g->left = true;
            kq_query_cancel(g->query);
        }
    }
}

static void *door_thread(void *ctx)
{
    kq_door *d = ctx;
    double looked = 0;
    pthread_mutex_lock(&d->lock);
    while (!d->stop) {
        struct epoll_event event[EVENTS];
        pthread_mutex_unlock(&d->lock);
        const int n = epoll_wait(d->epoll, event, EVENTS, TICK_MS);
        pthread_mutex_lock(&d->lock);
        for (int i = 0; i < n; i++) {
            const int *l = event[i].data.ptr;
            if (l >= d->listener && l < d->listener + MAX_LISTENERS) {
                if (!d->shut)
                    accept_all(d, *l);
            } else {
                on_guest_event(d, event[i].data.ptr, event[i].events);
            }
        }
        const double now = kq_now_s();
        const bool look = now - looked > 1e-3 * TICK_MS;
        looked = look ? now : looked;
        for (kq_guest *g = d->guests, *next; g; g = next) {
            if (look)
                look_after(d, g, now);
            if (d->shut && g->state == AT_DOOR)
                close_guest(g);
            next = g->next;
            if (g->state == GONE)
                unlink_guest(d, g);
        }
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

kq_status kq_door_start(kq_door *d, kq_error *err)
{
    if (pthread_create(&d->thread, NULL, door_thread, d))
        return kq_fail(err, KQ_E_MEMORY, "cannot start a thread");
    d->started = true;
    return KQ_OK;
}

void kq_door_shut(kq_door *d)
{
    pthread_mutex_lock(&d->lock);
    d->shut = true;
    close_listeners(d);
    pthread_mutex_unlock(&d->lock);
}

void kq_door_free(kq_door *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_mutex_unlock(&d->lock);
    if (d->started)
        pthread_join(d->thread, NULL);
    close_listeners(d);
    while (d->guests) {
        if (at_door(d->guests))
            close(d->guests->fd);
        unlink_guest(d, d->guests);
    }
    if (d->epoll >= 0)
        close(d->epoll);
    pthread_mutex_destroy(&d->lock);
    kq_free(d->head);
    kq_free(d);
}

/* ---- what was handed over ---- */

kq_guest *kq_door_guest(kq_door *d, int fd)
{
    pthread_mutex_lock(&d->lock);
    kq_guest *g = d->guests;
    while (g && (g->fd != fd || g->state != HANDED))
        g = g->next;
    if (g)
        g->state = TAKEN;
    pthread_mutex_unlock(&d->lock);
    return g;
}

void kq_door_leaves(kq_door *d, kq_guest *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&d->lock);
    unlink_guest(d, g);
    pthread_mutex_unlock(&d->lock);
}

double kq_guest_begins(kq_door *d, kq_guest *g)
{
    double since = kq_now_s();
    if (!g)
        return since;
    pthread_mutex_lock(&d->lock);
    g->since = since = g->since > 0 ? g->since : since;
    g->busy = true;
    pthread_mutex_unlock(&d->lock);
    return since;
}

void kq_guest_arrived(kq_door *d, kq_guest *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&d->lock);
    g->since = 0;
    pthread_mutex_unlock(&d->lock);
}

void kq_guest_works(kq_door *d, kq_guest *g, kq_query *query)
{
    if (!g)
        return;
    pthread_mutex_lock(&d->lock);
    g->query = query;
    pthread_mutex_unlock(&d->lock);
}

void kq_guest_done(kq_door *d, kq_guest *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&d->lock);
    g->query = NULL;
    g->busy = false;
    g->since = 0;
    g->moved = kq_now_s();
    pthread_mutex_unlock(&d->lock);
}

void kq_door_cancel(kq_door *d)
{
    pthread_mutex_lock(&d->lock);
    for (kq_guest *g = d->guests; g; g = g->next)
        if (g->query)
            kq_query_cancel(g->query);
    pthread_mutex_unlock(&d->lock);
}
