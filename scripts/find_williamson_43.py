#!/usr/bin/env python3
"""Find four symmetric +-1 sequences of length 43 whose circulants satisfy A^2 + B^2 + C^2 + D^2 = 172 I (Williamson 1944).

With a_0 = b_0 = c_0 = d_0 = 1 Williamson showed a_i b_i c_i d_i = -1 for i > 0: at each i exactly one of the four differs from the
other three. Then U_k = (A + B + C + D)/2 - X_k has u_k(0) = 1 and u_k(i) = 2 e_i where X_k is the odd one out, 0 elsewhere, and
sum_k U_k^2 = sum_k X_k^2. We look only at sequences constant on the orbits of i -> 6 i (6 has order 3 mod 43), up to sign: 7 orbits,
(4 places x 2 signs)^7 = 2,097,152 cases, all tried. 168 = 4! * 7 solve it; the first in the order of the code below is printed as the strings
that src/round/hadamard.c holds (entries 0 .. 21; x(43 - i) = x(i)). Needs numpy; 3 seconds.
"""
import numpy as np

N, G = 43, 6


def orbits():
    seen, out = set(), []
    for i in range(1, (N + 1) // 2):
        if i not in seen:
            o = sorted({min(i * pow(G, e, N) % N, N - i * pow(G, e, N) % N) for e in range(3)})
            seen |= set(o)
            out.append(o)
    return out


def main():
    orb = orbits()
    freq = [0] + [o[0] for o in orb]
    c = np.array([[4 * sum(np.cos(2 * np.pi * i * s / N) for i in o) for s in freq] for o in orb])
    case = np.arange(8 ** len(orb))
    total = np.zeros((len(freq), len(case)))
    for k in range(4):
        u = np.ones((len(freq), len(case)))
        for j in range(len(orb)):
            digit = (case >> (3 * j)) & 7
            u += c[j][:, None] * np.where(digit >> 1 == k, 1.0 - 2.0 * (digit & 1), 0.0)
        total += u * u
    good = np.flatnonzero(np.all(np.abs(total - 4 * N) < 1e-6, axis=0))
    print(f"{len(good)} solutions")
    x = np.ones((4, N), dtype=int)
    for j, o in enumerate(orb):
        digit = (int(good[0]) >> (3 * j)) & 7
        e = 1 - 2 * (digit & 1)
        for i in o:
            for k in range(4):
                x[k, i] = x[k, N - i] = -e if k == digit >> 1 else e
    auto = sum(np.array([np.dot(r, np.roll(r, s)) for s in range(N)]) for r in x)
    assert auto[0] == 4 * N and not auto[1:].any()  # exact, in integers
    for r in x:
        print('"' + "".join("+" if v > 0 else "-" for v in r[: (N + 1) // 2]) + '"')


if __name__ == "__main__":
    main()
