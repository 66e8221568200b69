"""Sessions: sealing and opening of envelopes under the open epochs of a process.

What it must not know: how epochs are announced and installed. Begin with `epoch_session.py`.
"""
