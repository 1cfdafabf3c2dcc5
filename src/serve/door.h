/* Connections, from the door to the last byte: listening, waiting for a whole request head, limits, and
 * clients that are slow, idle or gone.
 *
 * The door accepts connections and keeps each until the head of its first request is whole and in order
 * (head.h). What is not is answered here, in the API's own form, and never reaches the HTTP library. The
 * others are handed over. Idle connections are cheap and can be closed for one that asks: when the table
 * is full, or an address has its share of it, the connection that has been without a request for the
 * longest goes; if
 * there is none, the one whose request is the slowest to arrive. */
#ifndef KQ_SERVE_DOOR_H
#define KQ_SERVE_DOOR_H

#include <sys/socket.h>

#include "serve/query.h"

typedef struct kq_door_options {
    const char *host;       /* an address or a name; a name's addresses are all listened on */
    unsigned port;          /* 0: any that is free */
    size_t max_connections; /* at a time */
    size_t max_per_address; /* of one client's address */
    double receive_s;       /* from the first byte of a request to its last */
    double idle_s;          /* a connection without a request */
    /* Take over a connection whose head is whole: fd is the callee's from now on. False: it has closed it
     * already. The door's lock is not held. */
    bool (*hand_over)(void *ctx, int fd, const struct sockaddr *addr, socklen_t size);
    /* A request was refused here; may be NULL. Called under the door's lock: it must not call the door. */
    void (*refused)(void *ctx, const kq_api_error *e);
    void *ctx;
} kq_door_options;

typedef struct kq_door kq_door;
typedef struct kq_guest kq_guest; /* one connection that was handed over */

/* Listen; nothing is accepted yet. KQ_E_IO: the host has no address here, or another program (another
 * kronq too) holds the port. A port whose last owner has ended can be had at once. */
kq_status kq_door_open(const kq_door_options *opt, kq_door **out, kq_error *err);
/* Accept from now on, on a thread of the door's own. KQ_E_MEMORY. */
kq_status kq_door_start(kq_door *d, kq_error *err);
unsigned kq_door_port(const kq_door *d);
bool kq_door_loopback(const kq_door *d); /* only this machine itself can connect */
/* Accept no more; connections without a request are closed. Those that were handed over are watched on. */
void kq_door_shut(kq_door *d);
/* To be called when the connections that were handed over have ended. NULL is fine. */
void kq_door_free(kq_door *d);

/* The guest of a connection that was handed over; the callee calls this when it has it. NULL: unknown here.
 */
kq_guest *kq_door_guest(kq_door *d, int fd);
/* The connection is about to be closed. To be called before, because another connection may get its fd right
 * after. */
void kq_door_leaves(kq_door *d, kq_guest *g);

/* A request's head has come. Returns when its first byte did, on kq_now_s' clock. g may be NULL in all of
 * these, and all take the door's lock. */
double kq_guest_begins(kq_door *d, kq_guest *g);
/* The last byte of the request has come, too. */
void kq_guest_arrived(kq_door *d, kq_guest *g);
/* From now on query is cancelled when the client leaves. Borrowed until kq_guest_done. */
void kq_guest_works(kq_door *d, kq_guest *g, kq_query *query);
/* The request has been answered. */
void kq_guest_done(kq_door *d, kq_guest *g);
/* Cancel all queries at work. */
void kq_door_cancel(kq_door *d);

#endif
