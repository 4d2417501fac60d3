/* The device's side of the serial protocol: answers requests about the model linked in. */
#ifndef CS_HIL_H
#define CS_HIL_H

#include <stdint.h>

void cs_hil_init(void);
/* Takes one received byte; answers through cs_board_write when it completes a request. */
void cs_hil_receive(uint8_t byte);
/* Nonzero while a request is partly received. */
int cs_hil_busy(void);
/* Gives up a request whose bytes stopped coming. */
void cs_hil_timeout(void);

#endif
