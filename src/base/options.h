/* Structs of options that know their size, so that a program and a library of two versions understand each
 * other: every public struct of options begins with `size_t size`, and later versions add members at its end
 * only. That end is behind the padding: of a struct whose last member is a bool, the seven bytes that follow
 * hold anything in a program that knew no member there, so a new member must not lie in them (put one of
 * eight bytes first). A library thus meets structs that are shorter than its own (an older program) or longer
 * (a newer one). */
#ifndef KQ_BASE_OPTIONS_H
#define KQ_BASE_OPTIONS_H

#include "base/error.h"

/* Fill `options`, a caller's struct of `size` bytes, with as much of `defaults` (a struct of `full` bytes of
 * this library) as it holds. What lies beyond `full` becomes zero. The first member becomes `size`. */
void kq_options_fill(void *options, size_t size, const void *defaults, size_t full);

/* *whole, a struct of `full` bytes that holds the defaults, gets what `given` says; its first member becomes
 * `full`. given NULL: the defaults stay. KQ_E_ARG: given's size is 0 or absurd (it was not made by its
 * kq_..._defaults()), or it is longer than `full` and holds something there that is not zero. name is what
 * the message calls the struct. */
kq_status kq_options_read(void *whole, size_t full, const void *given, const char *name, kq_error *err);

/* *whole, a struct of this type of options, gets the defaults and then what the caller's `given` says. */
#define KQ_OPTIONS_READ(type, whole, given, err) \
    (type##_init((whole), sizeof(type)), kq_options_read((whole), sizeof(type), (given), #type, (err)))

#endif
