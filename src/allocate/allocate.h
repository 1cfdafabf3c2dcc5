/* Sharing out bits or bytes: every item (a module, the embedding) has a table of choices, and one choice of
 * each item is taken, so that the sum of their losses is small and the sum of their costs is within a budget.
 */
#ifndef KQ_ALLOCATE_ALLOCATE_H
#define KQ_ALLOCATE_ALLOCATE_H

#include "base/error.h"

enum { KQ_BITS_MIN = 2, KQ_BITS_MAX = 4, KQ_N_BITS = 3, KQ_MOST_CHOICES = 12 };

/* What an item may become. */
typedef struct kq_choice {
    double bits; /* a weight, as people call it: 2, 3, 4, 8, 16 */
    double cost; /* a whole number: of bits or of bytes, the same unit in all items */
    double loss; /* the forecast */
} kq_choice;

typedef struct kq_item {
    kq_choice choice[KQ_MOST_CHOICES]; /* [n], n >= 1, each dearer than the one before */
    size_t n;                          /* 1: nothing is to be chosen */
    size_t chosen;                     /* out: an index of choice */
} kq_item;

typedef struct kq_allocation {
    double cost;  /* the sum, at most the budget */
    double loss;  /* the sum */
    double bound; /* no assignment within the budget has a lower sum than this */
} kq_allocation;

/* Eq. 67: from the cheapest choices up, one step of one item at a time, the steps that save most for their
 * cost first. The steps of an item go along the lower convex hull of its choices. A step that does not fit is
 * made shorter, or left out. Where the steps taken are a whole prefix of that order, the assignment is the
 * best of all within the budget; else loss - bound says how far it may be from it. Ties go to the first item.
 * The first n_tried items are tried in every combination, because a single step of theirs (of an embedding)
 * may be a large part of the budget.
 * KQ_E_ARG: the cheapest choices together exceed the budget; KQ_E_NUMERIC: a loss that is negative or not
 * finite. */
kq_status kq_allocate(kq_item *items, size_t n, size_t n_tried, double budget, kq_allocation *out,
                      kq_error *err);

/* The cheapest assignment that kq_allocate finds with a loss of at most `most`. KQ_E_ARG: even the dearest
 * choices lose more. */
kq_status kq_allocate_for_loss(kq_item *items, size_t n, size_t n_tried, double most, kq_allocation *out,
                               kq_error *err);

#endif
