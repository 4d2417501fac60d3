/* STM32F2: RM0033. */
#include "cs_cortex_m3_m4.h"
