"""Bodies of the signed messages: encoding, parsing, and what their signatures cover.

What it must not know: keys of an epoch, members' state, and whether a message is accepted. Begin with
`control.py` (key request, key package, ready, switch, beat) and `announcement.py` (epoch heads).
"""
