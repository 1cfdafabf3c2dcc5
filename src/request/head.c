/* The head of an HTTP request, read strictly by RFC 9112. The HTTP library would accept more; but where two
 * readers understand the same bytes differently, a client can hide a request from a proxy in front of this
 * server. */
#include "request/head.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* RFC 9110's tchar: what methods and field names are made of. */
static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              (c && strchr("!#$%&'*+-.^_`|~", c))))
            return false;
    }
    return n > 0;
}

static bool name_is(const char *s, size_t n, const char *name)
{
    return n == strlen(name) && !strncasecmp(s, name, n);
}

static bool is_number(const char *s, size_t n)
{
    return n > 0 && n < 19 && strspn(s, "0123456789") >= n;
}

/* reg-name, an IPv4 address or [IPv6], with or without a port (RFC 3986, 3.2.2). */
static bool is_host(const char *s)
{
    const size_t bracket = *s == '[' ? strspn(s + 1, "0123456789abcdefABCDEF:.%") + 1 : 0;
    if (bracket && s[bracket] != ']')
        return false;
    const size_t n =
        bracket ? bracket + 1
                : strspn(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~!$&'()*+,;=%");
    if (!s[n])
        return true;
    return s[n] == ':' && strlen(s + n + 1) < 6 && strspn(s + n + 1, "0123456789") == strlen(s + n + 1);
}

void kq_head_field(kq_head *h, const char *name, size_t n_name, const char *value, size_t n)
{
    h->n_field++;
    if (name_is(name, n_name, "Host")) {
        if (!h->n_host++ && n < sizeof h->host)
            snprintf(h->host, sizeof h->host, "%.*s", (int)n, value);
        h->bad_host = h->bad_host || n >= sizeof h->host || strlen(h->host) != n || !is_host(h->host);
    } else if (name_is(name, n_name, "Content-Length")) {
        char digits[24] = "";
        snprintf(digits, sizeof digits, "%.*s", n < sizeof digits ? (int)n : 0, value);
        h->bad_length = h->bad_length || strlen(digits) != n || !is_number(digits, n);
        h->two_lengths = h->two_lengths || (h->n_length && strcmp(h->length, digits));
        if (!h->n_length++)
            memcpy(h->length, digits, sizeof digits);
    } else if (name_is(name, n_name, "Transfer-Encoding")) {
        h->n_coding++;
        h->bad_coding = h->bad_coding || !name_is(value, n, "chunked");
    } else if (name_is(name, n_name, "Expect")) {
        h->waits = name_is(value, n, "100-continue");
        h->bad_expect = h->bad_expect || !h->waits;
    }
}

bool kq_head_check(const kq_head *h, kq_api_error *e)
{
    if (h->n_field > KQ_HEAD_FIELDS)
        return kq_api_fail(e, 431, NULL, "headers_too_large",
                           "The request has %zu header lines; at most %d are taken", h->n_field,
                           KQ_HEAD_FIELDS);
    if (h->minor > 0 && !h->n_host)
        return kq_api_fail(e, 400, NULL, "bad_request",
                           "The request has no Host header; HTTP/1.1 asks for one");
    if (h->n_host > 1 || h->bad_host)
        return kq_api_fail(e, 400, NULL, "bad_request",
                           h->n_host > 1 ? "The request has %zu Host headers; one is expected"
                                         : "The Host header is not a host name or address",
                           h->n_host);
    if (h->bad_length || h->two_lengths)
        return kq_api_fail(e, 400, NULL, "bad_request",
                           h->bad_length ? "Content-Length is not a number of bytes"
                                         : "The request has different Content-Length headers");
    if (h->n_coding && h->n_length)
        return kq_api_fail(e, 400, NULL, "bad_request",
                           "The request has both Content-Length and Transfer-Encoding");
    if (h->n_coding && h->minor == 0)
        return kq_api_fail(e, 400, NULL, "bad_request", "Transfer-Encoding does not exist in HTTP/1.0");
    if (h->bad_coding || h->n_coding > 1)
        return kq_api_fail(e, 501, NULL, "unsupported_transfer_encoding",
                           "Transfer-Encoding: only chunked is understood");
    if (h->bad_expect)
        return kq_api_fail(e, 417, NULL, "expectation_failed", "Expect: only 100-continue is understood");
    return true;
}

static kq_head_state refuse(kq_api_error *e, int status, const char *code, const char *why)
{
    kq_api_fail(e, status, NULL, code, "%s", why);
    return KQ_HEAD_BAD;
}

static const char not_http[] =
    "This is not an HTTP request: METHOD TARGET HTTP/1.1 is expected in its first line";

/* "POST /v1/completions HTTP/1.1" */
static kq_head_state request_line(const char *s, size_t n, kq_head *h, kq_api_error *e)
{
    const char *method_end = memchr(s, ' ', n);
    const char *target = method_end ? method_end + 1 : NULL;
    const char *target_end = target ? memchr(target, ' ', n - (size_t)(target - s)) : NULL;
    if (!target_end || target_end == target || !is_token(s, (size_t)(method_end - s)))
        return refuse(e, 400, "bad_request", not_http);
    const char *version = target_end + 1;
    const size_t left = n - (size_t)(version - s);
    if (left != 8 || memcmp(version, "HTTP/", 5) || version[6] != '.')
        return refuse(e, 400, "bad_request", not_http);
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1'))
        return refuse(e, 505, "http_version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here");
    if ((size_t)(target_end - method_end) > KQ_HEAD_TARGET_BYTES)
        return refuse(e, 414, "uri_too_long", "The request's target is longer than 8192 bytes");
    if (memmem(target, (size_t)(target_end - target), "%00", 3))
        return refuse(e, 400, "bad_request", "The request's target holds a NUL character");
    h->minor = version[7] - '0';
    return KQ_HEAD_WHOLE;
}

static kq_head_state field_line(const char *s, size_t n, kq_head *h, kq_api_error *e)
{
    const char *colon = memchr(s, ':', n);
    if (!colon || !is_token(s, (size_t)(colon - s)))
        return refuse(e, 400, "bad_request", "A header line is not NAME: VALUE");
    const char *value = colon + 1, *end = s + n;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    kq_head_field(h, s, (size_t)(colon - s), value, (size_t)(end - value));
    return KQ_HEAD_WHOLE;
}

/* A line that has no end yet: can it still become a valid one? */
static kq_head_state unfinished(const char *s, size_t n, bool first, kq_api_error *e)
{
    if (n && first && !is_token(s, 1))
        return (unsigned char)*s == 0x16 ? refuse(e, 400, "bad_request", "This server speaks HTTP, not HTTPS")
                                         : refuse(e, 400, "bad_request", not_http);
    return first && n > KQ_HEAD_TARGET_BYTES + 64
               ? refuse(e, 414, "uri_too_long", "The request's target is longer than 8192 bytes")
               : KQ_HEAD_MORE;
}

kq_head_state kq_head_read(const char *bytes, size_t n, kq_api_error *e)
{
    kq_head h = {0};
    bool first = true;
    size_t at = 0;
    /* RFC 9112, 2.2 allows empty lines before a request */
    while (n - at >= 2 && bytes[at] == '\r' && bytes[at + 1] == '\n')
        at += 2;
    if (at + 1 == n && bytes[at] == '\r')
        return KQ_HEAD_MORE;
    for (;;) {
        const char *line = bytes + at;
        const size_t left = n - at;
        size_t k = 0;
        while (k < left && (line[k] == '\t' || ((unsigned char)line[k] >= ' ' && line[k] != 127)))
            k++;
        if (left - k < 2 && (k == left || line[k] == '\r')) {
            const kq_head_state s = unfinished(line, left, first, e);
            return s == KQ_HEAD_MORE && n >= KQ_HEAD_BYTES
                       ? refuse(e, 431, "headers_too_large", "The request's headers are larger than 32 KiB")
                       : s;
        }
        if (first && unfinished(line, k ? k : 1, true, e) == KQ_HEAD_BAD)
            return KQ_HEAD_BAD;
        if (line[k] != '\r' || line[k + 1] != '\n')
            return refuse(
                e, 400, "bad_request",
                "The request's head holds a control character, or a line that does not end with CR LF");
        at += k + 2;
        if (!k)
            break;
        const kq_head_state s = first ? request_line(line, k, &h, e) : field_line(line, k, &h, e);
        if (s == KQ_HEAD_BAD)
            return s;
        first = false;
    }
    if (at > KQ_HEAD_BYTES)
        return refuse(e, 431, "headers_too_large", "The request's headers are larger than 32 KiB");
    return kq_head_check(&h, e) ? KQ_HEAD_WHOLE : KQ_HEAD_BAD;
}

/* The name of "name", "name:80", "[::1]" or "[::1]:80", without brackets and a last dot. False: it does
 * not fit. */
static bool host_name(const char *host, char *out, size_t cap)
{
    const char *end = *host == '[' ? strchr(host, ']') : strrchr(host, ':');
    const char *from = *host == '[' ? host + 1 : host;
    if (*host != '[' && end && strchr(host, ':') != end) /* an IPv6 address without brackets */
        end = NULL;
    size_t n = end && end >= from ? (size_t)(end - from) : strlen(from);
    if (n > 1 && from[n - 1] == '.')
        n--;
    if (n >= cap)
        return false;
    memcpy(out, from, n);
    out[n] = 0;
    return true;
}

bool kq_head_host_is(const char *host, const char *const *names, size_t n_names)
{
    char name[260], own[260];
    struct in_addr v4;
    struct in6_addr v6;
    if (!host_name(host, name, sizeof name))
        return false;
    if (!strcasecmp(name, "localhost") ||
        (inet_pton(AF_INET, name, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127) ||
        (inet_pton(AF_INET6, name, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6)))
        return true;
    for (size_t i = 0; i < n_names; i++)
        if (host_name(names[i], own, sizeof own) && !strcasecmp(name, own))
            return true;
    return false;
}

bool kq_head_origin_valid(const char *origin)
{
    const char *colon = strstr(origin, "://");
    return colon && colon > origin && strlen(origin) < 256 &&
           strspn(origin, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.") ==
               (size_t)(colon - origin) &&
           colon[3] && is_host(colon + 3);
}
