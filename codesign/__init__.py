"""codesign: proves, before it ships, that the int8 recurrent network on a microcontroller does what the float model does."""

__version__ = "0.1.0"
