"""Output of all executables: the only modules that write to standard output and standard error.

What they write passes `formats.display`, so that no text from outside moves the cursor, sets colours, begins
a line or hides. Imports `formats` only. Begin with `lines`; `styled` is for tables and colours.
"""
