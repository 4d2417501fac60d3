/* STM32F4: RM0090 and RM0390. */
#include "cs_cortex_m3_m4.h"
