"""Sessions: sealing and opening of envelopes under the open epochs of a process.

Must not depend on: how epochs are announced and installed. Begin with `epoch_session.py`.
"""
