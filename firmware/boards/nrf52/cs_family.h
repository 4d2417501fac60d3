/* What the nRF52840 has of its own. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#include "cs_board.h"

#define FAMILY_BAUD_38400 0x009D0000u
#define FAMILY_BAUD_115200 0x01D60000u

#define NVMC_ICACHECNF CS_REGISTER(0x4001E540u)

static void cs_family_enable_caches(void)
{
    NVMC_ICACHECNF = 1;
}

#endif
