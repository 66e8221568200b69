"""Records of a flight: MCAP files, reports and pictures."""
