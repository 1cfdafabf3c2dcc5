/* The head of an HTTP request: what it must be before anything reads on. Bytes in, a state or an error out;
 * no network in here, so that tests and the fuzzer reach every line. */
#ifndef KQ_REQUEST_HEAD_H
#define KQ_REQUEST_HEAD_H

#include <stddef.h>

#include "request/error.h"

enum {
    KQ_HEAD_BYTES = 32 << 10,       /* of a whole head; more: 431 */
    KQ_HEAD_TARGET_BYTES = 8 << 10, /* of the request's target (the URL); more: 414 */
    KQ_HEAD_FIELDS = 512            /* header lines; more: 431 */
};

/* The fields that say where a request ends and whom it is for. Two readers that understand them
 * differently (a proxy and this server) could be made to see different requests in the same bytes, so
 * nothing doubtful is taken. */
typedef struct kq_head {
    int minor; /* HTTP/1.minor */
    size_t n_field, n_host, n_length, n_coding;
    char host[260];  /* the first Host field */
    char length[24]; /* the first Content-Length field */
    bool bad_host, bad_length, two_lengths, bad_coding, bad_expect;
    bool waits; /* "Expect: 100-continue": the client sends the body only when it is asked for it */
} kq_head;

/* Note one header field. Fields of other names are passed over. */
void kq_head_field(kq_head *h, const char *name, size_t n_name, const char *value, size_t n_value);
/* May the request go on? False with *e. Refused with 400: no Host field in HTTP/1.1, or two; a Content-Length
 * that is not a number, or two different ones; Content-Length together with Transfer-Encoding;
 * Transfer-Encoding in HTTP/1.0. With 501: a transfer coding other than chunked. With 417: an expectation
 * other than 100-continue. With 431: too many header lines. */
bool kq_head_check(const kq_head *h, kq_api_error *e);

typedef enum kq_head_state { KQ_HEAD_MORE = 0, KQ_HEAD_WHOLE, KQ_HEAD_BAD } kq_head_state;
/* Read what has arrived of a request [n]. MORE: the head is not whole yet, and nothing in it is wrong so
 * far. BAD: *e says why; what is no HTTP/1 at all is noticed at its first byte. The grammar is RFC
 * 9112's, strictly: lines end with CRLF, no folded lines, no control characters. */
kq_head_state kq_head_read(const char *bytes, size_t n, kq_api_error *e);

/* Is `host`, the value of a Host field, a name of this machine's own loopback (localhost, 127.x.x.x,
 * [::1]) or one of names, with or without a port? Capitals do not matter. */
bool kq_head_host_is(const char *host, const char *const *names, size_t n_names);
/* Is `origin` what a browser sends: scheme://host or scheme://host:port, nothing behind it? */
bool kq_head_origin_valid(const char *origin);

#endif
