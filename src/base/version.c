#include "kronq.h"

const char *kq_version(void)
{
    return KRONQ_VERSION;
}
