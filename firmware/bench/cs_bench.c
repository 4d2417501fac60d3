/* Start-up and measuring program of `codesign bench`. Under Unicorn the host calls the model's functions itself; under
 * QEMU this program counts with SysTick, which runs with the executed instructions there, and prints by semihosting. */
#include <stdint.h>

#include "codesign_model.h"
#include "cs_bench_config.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define SCB_CPACR (*(volatile uint32_t *)0xE000ED88u)
#define TICK_MASK 0x00FFFFFFu
#define SYS_WRITE0 4u
#define SYS_EXIT 0x18u
#define ADP_STOPPED_APPLICATION_EXIT 0x20026u

extern uint32_t cs_ld_stack_top[];
extern uint32_t cs_ld_bss_start[];
extern uint32_t cs_ld_bss_end[];

void Reset_Handler(void);
void Fault_Handler(void);
void bench_known_loop(uint32_t rounds);
extern const cs_model_value_t bench_input[CS_MODEL_INPUT_SIZE];

cs_model_value_t bench_in[CS_MODEL_INPUT_SIZE];
cs_model_value_t bench_out[CS_MODEL_OUTPUT_SIZE];
#if CS_MODEL_STREAMING
uint8_t bench_state[CS_MODEL_STATE_SIZE + 1];
void *const bench_keep[4] = {(void *)cs_model_step, (void *)cs_model_get_state, (void *)cs_model_set_state, bench_state};
#else
void *const bench_keep[1] = {(void *)cs_model_hash};
#endif

typedef void (*vector)(void);

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)(uintptr_t)cs_ld_stack_top, Reset_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
    Fault_Handler,                      0,             0,             0,             0,             Fault_Handler,
    Fault_Handler,                      0,             Fault_Handler, Fault_Handler,
};

static void semihosting(uint32_t operation, uint32_t argument)
{
    register uint32_t r0 __asm("r0") = operation;
    register uint32_t r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void print(uint32_t value)
{
    char text[10];
    uint32_t digits = 8;
    text[8] = '\n';
    text[9] = '\0';
    do {
        const uint32_t digit = value & 15u;
        text[--digits] = (char)(digit < 10u ? '0' + digit : 'a' + digit - 10u);
        value >>= 4;
    } while (digits > 0u);
    semihosting(SYS_WRITE0, (uint32_t)(uintptr_t)text);
}

/* Exactly 2 * rounds + 1 instructions with its return. */
__attribute__((naked, noinline)) void bench_known_loop(uint32_t rounds)
{
    __asm volatile(
        ".syntax unified\n"
        "1: subs r0, r0, #1\n"
        "bne 1b\n"
        "bx lr\n");
    (void)rounds;
}

static uint32_t now(void)
{
    return SYST_CVR;
}

__attribute__((used, noreturn)) static void bench_main(void)
{
    uint32_t start, i, sum = 0;
    for (uint32_t *p = cs_ld_bss_start; p < cs_ld_bss_end; p++) {
        *p = 0;
    }
    SYST_RVR = TICK_MASK;
    SYST_CVR = 0;
    SYST_CSR = 5u; /* processor clock, no interrupt */
    cs_model_init();
    for (i = 0; i < CS_MODEL_INPUT_SIZE; i++) {
        bench_in[i] = bench_input[i];
    }
    start = now();
    bench_known_loop(CS_BENCH_ROUNDS);
    print((start - now()) & TICK_MASK);
    start = now();
    for (i = 0; i < CS_BENCH_REPEATS; i++) {
        cs_model_invoke(bench_in, bench_out);
    }
    print((start - now()) & TICK_MASK);
    for (i = 0; i < sizeof bench_out; i++) {
        sum = (sum << 5 | sum >> 27) ^ ((const uint8_t *)bench_out)[i];
    }
    print(sum);
    semihosting(SYS_EXIT, ADP_STOPPED_APPLICATION_EXIT);
    for (;;) {
    }
}

__attribute__((naked, used)) void Reset_Handler(void)
{
    __asm volatile(
        ".syntax unified\n"
        "ldr r0, =cs_ld_stack_top\n"
        "mov sp, r0\n"
        "bl  bench_main\n"
        ".ltorg\n");
}

void Fault_Handler(void)
{
    print(0xFFFFFFFFu);
    semihosting(SYS_EXIT, ADP_STOPPED_APPLICATION_EXIT);
    for (;;) {
    }
}
