"""Bridges from flight logic to real autopilots. The only room beside sitl/ where NED and FRD exist."""
