/* What the nRF51 has of its own. */
#ifndef CS_FAMILY_H
#define CS_FAMILY_H

#define FAMILY_BAUD_38400 0x009D5000u
#define FAMILY_BAUD_115200 0x01D7E000u

static void cs_family_enable_caches(void)
{
}

#endif
