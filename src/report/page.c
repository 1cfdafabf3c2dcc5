/* The parts that the page is put together from: figures with a number and a caption, the legend, cells of
 * tables. */
#include <math.h>

#include "report/report.h"

void kq_rp_open(kq_rp *p, FILE *f, const char *name, const char *title)
{
    fprintf(f, "<figure id=\"%s\">\n<p class=\"figtitle\"><span>Figure %d</span>", name, ++p->figure);
    kq_html_text(f, title);
    fputs("</p>\n", f);
}

void kq_rp_close(FILE *f, const char *caption)
{
    fprintf(f, "<figcaption>%s</figcaption>\n</figure>\n", caption);
}

void kq_rp_legend(const kq_rp *p, FILE *f)
{
    fputs("<ul class=\"legend\">\n", f);
    for (size_t s = 0; s < p->n_series; s++) {
        const double x[2] = {1, 33}, y[2] = {6, 6};
        fputs("<li><svg class=\"swatch\" viewBox=\"0 0 34 12\" aria-hidden=\"true\">", f);
        kq_svg_line(f, x, y, 2, s, "");
        kq_svg_mark(f, 17, 6, s, false, "key", NULL);
        fputs("</svg><code>", f);
        kq_html_text(f, p->series[s]);
        fputs("</code></li>\n", f);
    }
    fputs("</ul>\n", f);
}

void kq_rp_cell(FILE *f, double x, int digits)
{
    if (isfinite(x))
        fprintf(f, "<td>%s%.*f</td>", x < 0 ? KQ_MINUS : "", digits, fabs(x));
    else
        fputs("<td>n/a</td>", f);
}

void kq_rp_cell_error(FILE *f, double x, double error, int digits)
{
    if (!isfinite(x))
        fputs("<td>n/a</td>", f);
    else if (isfinite(error))
        fprintf(f, "<td>%s%.*f<span class=\"pm\"> &#177; %.*f</span></td>", x < 0 ? KQ_MINUS : "", digits,
                fabs(x), digits, error);
    else
        kq_rp_cell(f, x, digits);
}

/* Digits behind the point of a perplexity: five significant ones */
int kq_rp_ppl_digits(double x)
{
    return x >= 1e4 ? 0 : x >= 1000 ? 1 : x >= 100 ? 2 : 3;
}

void kq_rp_bits_cell(FILE *f, double bits)
{
    fprintf(f, "<td>%.4g</td>", bits);
}

void kq_rp_tokens_cell(FILE *f, double tokens)
{
    char buf[32];
    fprintf(f, "<td>%s</td>", kq_tokens_text(tokens, buf));
}
