"""Bodies of the signed messages: encoding, parsing, and what their signatures cover.

Must not depend on: keys of an epoch, members' state, and the acceptance of messages. Begin with
`control.py` (key request, key package, ready, switch, beat) and `announcement.py` (epoch heads).
"""
