/* Reset, vector table and faults, for every Cortex-M board. */
#include <stdint.h>

#include "cs_board.h"
#include "cs_config.h"
#include "cs_frame.h"

#define STACK_PAINT 0xA5C3A5C3u
#define SCB_VTOR CS_REGISTER(0xE000ED08u)
#if defined(__ARM_ARCH_6M__) /* has no fault status registers */
#define SCB_CFSR 0u
#define SCB_HFSR 0u
#else
#define SCB_CFSR CS_REGISTER(0xE000ED28u)
#define SCB_HFSR CS_REGISTER(0xE000ED2Cu)
#endif

extern uint32_t cs_ld_stack_bottom[];
extern uint32_t cs_ld_stack_top[];
extern uint32_t cs_ld_data_start[];
extern uint32_t cs_ld_data_end[];
extern const uint32_t cs_ld_data_load[];
extern uint32_t cs_ld_bss_start[];
extern uint32_t cs_ld_bss_end[];

/* What lies below the stack is no memory, but not every bus says so: reads and writes there may do nothing. */
#if defined(__ARM_ARCH) && __ARM_ARCH >= 8
#define CS_STACK_LIMIT_REGISTER 1
#else
#define MPU_TYPE CS_REGISTER(0xE000ED90u)
#define MPU_CTRL CS_REGISTER(0xE000ED94u)
#define MPU_RNR CS_REGISTER(0xE000ED98u)
#define MPU_RBAR CS_REGISTER(0xE000ED9Cu)
#define MPU_RASR CS_REGISTER(0xE000EDA0u)
#define MPU_RASR_NEVER 0x10000000u /* no access, no execution */
#define MPU_CTRL_ON 5u             /* the rest of the memory as without it; off in the fault handler */
#define LARGEST_GUARD_LOG2 26u
#endif

int main(void);
void Reset_Handler(void);
void HardFault_Handler(void);
void Default_Handler(void);
void SysTick_Handler(void) __attribute__((weak, alias("Default_Handler")));
void cs_start(void);
void cs_fault(uint32_t stack_pointer);
void cs_fault_loop(void);
void cs_unexpected_interrupt_loop(void);

typedef void (*vector)(void);

__attribute__((section(".isr_vector"), used)) static const vector vectors[16] = {
    (vector)(uintptr_t)cs_ld_stack_top,
    Reset_Handler,
    Default_Handler, /* NMI */
    HardFault_Handler,
    HardFault_Handler, /* MemManage */
    HardFault_Handler, /* BusFault */
    HardFault_Handler, /* UsageFault */
    0,
    0,
    0,
    0,
    Default_Handler, /* SVCall */
    Default_Handler, /* DebugMonitor */
    0,
    Default_Handler, /* PendSV */
    SysTick_Handler,
};

/* The FPU is on and the whole stack painted before any C code runs. */
__attribute__((naked, used)) void Reset_Handler(void)
{
    __asm volatile(
        ".syntax unified              \n"
        "cpsid i                      \n"
#if defined(__ARM_FP)
        "ldr   r0, =0xE000ED88        \n" /* CPACR: full access to CP10 and CP11 */
        "ldr   r1, [r0]               \n"
        "orr   r1, r1, #0x00F00000    \n"
        "str   r1, [r0]               \n"
        "dsb                          \n"
        "isb                          \n"
#endif
        "ldr   r0, =cs_ld_stack_bottom\n"
        "ldr   r1, =cs_ld_stack_top   \n"
        "msr   msp, r1                \n"
        "ldr   r2, =%c0               \n"
        "1:                           \n"
        "str   r2, [r0]               \n"
        "adds  r0, #4                 \n"
        "cmp   r0, r1                 \n"
        "blo   1b                     \n"
        "bl    cs_start               \n"
        "b     .                      \n"
        ".ltorg                       \n" ::"i"(STACK_PAINT));
}

/* A stack overflow faults at its first access, whatever the bus makes of it: by the stack limit of Armv8-M, or by an
   MPU region below the stack (as large as its alignment allows, so that no frame steps over it). A core that has neither
   relies on the bus. */
static void guard_stack(void)
{
#if defined(CS_STACK_LIMIT_REGISTER)
    __asm volatile("msr msplim, %0" ::"r"(cs_ld_stack_bottom) : "memory");
#else
    const uint32_t bottom = (uint32_t)(uintptr_t)cs_ld_stack_bottom;
    uint32_t log2 = 5;
    if ((MPU_TYPE >> 8 & 0xFFu) == 0u) {
        return;
    }
    while (log2 < LARGEST_GUARD_LOG2 && (bottom & ((2u << log2) - 1u)) == 0u) {
        log2++;
    }
    MPU_RNR = 0;
    MPU_RBAR = bottom - (1u << log2);
    MPU_RASR = MPU_RASR_NEVER | (log2 - 1u) << 1 | 1u;
    MPU_CTRL = MPU_CTRL_ON;
#endif
    __asm volatile("dsb\n isb" ::: "memory");
}

__attribute__((used, noreturn)) void cs_start(void)
{
    guard_stack();
    const uint32_t *source = cs_ld_data_load;
    for (uint32_t *p = cs_ld_data_start; p < cs_ld_data_end; p++) {
        *p = *source++;
    }
    for (uint32_t *p = cs_ld_bss_start; p < cs_ld_bss_end; p++) {
        *p = 0;
    }
    SCB_VTOR = (uint32_t)(uintptr_t)vectors;
    __asm volatile("dsb\n isb\n cpsie i" ::: "memory");
    (void)main();
    for (;;) {
    }
}

/* The fault may be a stack overflow: the handler takes a fresh stack before it touches memory. */
__attribute__((naked, used)) void HardFault_Handler(void)
{
    __asm volatile(
        ".syntax unified              \n"
        "cpsid i                      \n"
        "mrs   r0, msp                \n"
        "ldr   r1, =cs_ld_stack_top   \n"
        "msr   msp, r1                \n"
        "ldr   r1, =cs_fault          \n"
        "bx    r1                     \n"
        ".ltorg                       \n");
}

__attribute__((used, noinline, noreturn)) void cs_fault_loop(void)
{
    for (;;) {
        __asm volatile("nop");
    }
}

__attribute__((used, noinline, noreturn)) void cs_unexpected_interrupt_loop(void)
{
    for (;;) {
        __asm volatile("nop");
    }
}

__attribute__((used)) void Default_Handler(void)
{
    cs_unexpected_interrupt_loop();
}

/* Sends an error frame (code 16, request type 0, PC, CFSR, HFSR), then stays in cs_fault_loop for a debugger to see. */
__attribute__((used, noreturn)) void cs_fault(uint32_t stack_pointer)
{
    const uint32_t bottom = (uint32_t)(uintptr_t)cs_ld_stack_bottom;
    const uint32_t top = (uint32_t)(uintptr_t)cs_ld_stack_top;
    uint32_t pc = 0;
    if (stack_pointer >= bottom && stack_pointer <= top - 32u) {
        pc = CS_REGISTER(stack_pointer + 24u); /* the stacked return address */
    }
    cs_writer writer = {cs_board_write, 0};
    cs_writer_begin(&writer, (uint8_t)CS_FRAME_ERROR, 0, 14);
    cs_writer_u8(&writer, (uint8_t)CS_ERROR_FAULT);
    cs_writer_u8(&writer, 0);
    cs_writer_u32(&writer, pc);
    cs_writer_u32(&writer, SCB_CFSR);
    cs_writer_u32(&writer, SCB_HFSR);
    cs_writer_end(&writer);
    cs_fault_loop();
}

uint32_t cs_board_stack_size(void)
{
    return (uint32_t)((uintptr_t)cs_ld_stack_top - (uintptr_t)cs_ld_stack_bottom);
}

uint32_t cs_board_stack_used(void)
{
    const volatile uint32_t *p = cs_ld_stack_bottom;
    while (p < cs_ld_stack_top && *p == STACK_PAINT) {
        p++;
    }
    return (uint32_t)((uintptr_t)cs_ld_stack_top - (uintptr_t)p);
}
