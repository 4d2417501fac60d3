#include "cs_board.h"
#include "cs_hil.h"

int main(void)
{
    uint64_t last = 0;
    cs_board_init();
    cs_hil_init();
    for (;;) {
        uint8_t byte;
        if (cs_board_read(&byte)) {
            cs_hil_receive(byte);
            last = cs_board_counter();
        } else if (cs_hil_busy() && cs_board_counter_elapsed(last) > cs_board_clock_hz() / 2u) {
            /* Half a second without a byte: the rest of this frame will not come. */
            cs_hil_timeout();
            last = cs_board_counter();
        }
    }
}
