"""PlatformIO development platform that uses the compiler and openocd of the machine instead of registry packages."""

from platformio.platform.base import PlatformBase


class CodesignarmPlatform(PlatformBase):
    def is_embedded(self):
        return True
