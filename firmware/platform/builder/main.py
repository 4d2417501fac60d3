"""SCons script: compile src/, link with the board's linker script, write ELF, .bin and .hex, upload with openocd."""

import os
import sys
from os.path import join, relpath

from SCons.Script import AlwaysBuild, Builder, Default, DefaultEnvironment

env = DefaultEnvironment()
board = env.BoardConfig()
prefix = "arm-none-eabi-"
project_dir = env.subst("$PROJECT_DIR")

core_flags = ["-mcpu=" + board.get("build.cpu"), "-mthumb"]
if board.get("build.fpu", ""):
    core_flags += ["-mfpu=" + board.get("build.fpu"), "-mfloat-abi=" + board.get("build.float_abi")]
else:
    core_flags += ["-mfloat-abi=soft"]

env.Replace(
    AR=prefix + "gcc-ar",
    AS=prefix + "gcc",
    CC=prefix + "gcc",
    CXX=prefix + "g++",
    LINK=prefix + "gcc",
    OBJCOPY=prefix + "objcopy",
    RANLIB=prefix + "gcc-ranlib",
    SIZETOOL=prefix + "size",
    ARFLAGS=["rcD"],
    PROGSUFFIX=".elf",
    # .stack is part of the RAM in use: it is a section of its own, which `size -A` lists.
    SIZEPROGREGEXP=r"^(?:\.isr_vector|\.text|\.rodata|\.ARM\.exidx|\.data)\s+(\d+).*",
    SIZEDATAREGEXP=r"^(?:\.stack|\.data|\.bss)\s+(\d+).*",
    SIZECHECKCMD="$SIZETOOL -A -d $SOURCES",
    LDSCRIPT_PATH="",
)
env.Append(
    CCFLAGS=[
        *core_flags,
        "-O2",
        "-g",
        "-ffunction-sections",
        "-fdata-sections",
        "-fno-common",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wdouble-promotion",
        "-Werror",
        # The project may be built in any folder and give the same bytes.
        f"-ffile-prefix-map={project_dir}=.",
    ],
    CFLAGS=["-std=c11"],
    CXXFLAGS=[
        "-std=c++17",
        "-fno-exceptions",
        "-fno-rtti",
        "-fno-threadsafe-statics",
        "-fno-use-cxa-atexit",
        "-fno-unwind-tables",
        "-fno-asynchronous-unwind-tables",
    ],
    LIBS=["m"],
    LINKFLAGS=[
        *core_flags,
        "-nostartfiles",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,--fatal-warnings",
        # SCons runs in the project's folder; relative paths keep commas and spaces in its name away from -Wl.
        "-L.",
        "-Tcortex_m.ld",
        "-Wl,-Map," + join(relpath(env.subst("$BUILD_DIR"), project_dir), "program.map"),
    ],
    BUILDERS={
        "ElfToBin": Builder(
            action=env.VerboseAction("$OBJCOPY -O binary $SOURCES $TARGET", "Building $TARGET"), suffix=".bin"
        ),
        "ElfToHex": Builder(
            action=env.VerboseAction("$OBJCOPY -O ihex $SOURCES $TARGET", "Building $TARGET"), suffix=".hex"
        ),
    },
)


prefix_map = f"-ffile-prefix-map={project_dir}=."
foreign = env.Clone()
if os.environ.get("CODESIGN_OBJECT_CACHE"):
    foreign.CacheDir(os.environ["CODESIGN_OBJECT_CACHE"])


def third_party(build_env, node):
    """A third party's sources: their warnings are not ours to mend. They take minutes: without debug information, which
    would hold the project's folder, their objects serve every project."""
    place = relpath(node.srcnode().get_abspath(), project_dir)
    if not place.startswith(join("src", "tflm") + os.sep):
        return node
    kept = [flag for flag in build_env["CCFLAGS"] if flag != prefix_map]
    target = node.get_path() + ".o"
    own = {key: build_env[key] for key in ("CPPPATH", "CPPDEFINES", "CFLAGS", "CXXFLAGS") if key in build_env}
    return foreign.Object(target, node, CCFLAGS=[*kept, "-w", "-g0"], **own)


env.AddBuildMiddleware(third_party)

elf = env.BuildProgram()
env.Depends(elf, [join("$PROJECT_DIR", "cortex_m.ld"), join("$PROJECT_DIR", "memory.ld")])
binary = env.ElfToBin(join("$BUILD_DIR", "${PROGNAME}"), elf)
ihex = env.ElfToHex(join("$BUILD_DIR", "${PROGNAME}"), elf)

AlwaysBuild(env.Alias("size", elf, env.VerboseAction("$SIZETOOL -A -d $SOURCES", "Sizes of $SOURCE")))

protocol = env.subst("$UPLOAD_PROTOCOL") or board.get("upload.protocol", "")
if protocol == "openocd":
    scripts = []
    for script in board.get("upload.openocd_config"):
        scripts += ["-f", script]
    if os.environ.get("CODESIGN_PROBE_SERIAL"):
        scripts += ["-c", "adapter serial " + os.environ["CODESIGN_PROBE_SERIAL"]]
    check = ""
    if board.get("upload.device_id", None):
        scripts += ["-f", join("platforms", "codesign-arm", "openocd_check.cfg")]
        check = "init; codesign_require_device {} {}; ".format(*board.get("upload.device_id"))
    env.Replace(
        UPLOADER="openocd",
        UPLOADERFLAGS=scripts,
        UPLOADCMD=f'$UPLOADER $UPLOADERFLAGS -c "{check}program {{$SOURCE}} verify reset exit"',
    )
    actions = [env.VerboseAction("$UPLOADCMD", "Uploading $SOURCE")]
elif protocol == "":

    def refuse(*_args, **_kwargs):
        sys.stderr.write(f"Error: {board.get('name')} cannot be flashed; run its ELF on an emulator\n")
        env.Exit(1)

    actions = [env.VerboseAction(refuse, "Uploading $SOURCE")]
else:
    sys.stderr.write(f"Error: unknown upload protocol {protocol}\n")
    env.Exit(1)
env.AddPlatformTarget("upload", elf, actions, "Upload")

Default([elf, binary, ihex])
