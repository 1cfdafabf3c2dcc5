/* The version, from the header that a program was compiled with. */
#include "kronq.h"

const char *kq_version(void)
{
    return KRONQ_VERSION;
}
