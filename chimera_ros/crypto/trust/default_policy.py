"""Default policy of a new keystore; a test keeps it equal to config/policy.yaml."""

from typing import Final

TEXT: Final = """\
# Publishers and protection of each channel. `chimera keys create` adds `swarm`, `issued` and `expires`
# at the end and signs the result; after a change raise `version` and sign again.
#
# lane        signature    used for
# command     always       commands, acknowledgements, elections, orders to the crypto node
# telemetry   checkpoint   telemetry, heartbeats, clock
# plan        always       trajectories, neural updates, moderation
# bulk        checkpoint   everything else
#
# The first matching rule decides. {member} is the publisher's own name, * any one segment, ** any rest. The
# names crypto, leader, operator and path_moderation are never matched by {member}, * or a leading **.
version: 1
suite: CHIMERA-1 # or CHIMERA-1-CNSA: pure ML-KEM-1024
protocol: 1

limits: # seconds, unless the name says otherwise
  rotation_s: 60.0
  silence_s: 30.0
  volume_bytes: 100000000

channels:
  - {channel: leader/command, publish: [leader], lane: command, lifespan_s: 2.0}
  - {channel: leader/election, publish: [leader], lane: command, lifespan_s: 2.0}
  - {channel: leader/trajectory, publish: [leader], lane: plan, lifespan_s: 5.0}
  - {channel: leader/neural_update, publish: [leader], lane: plan, lifespan_s: 5.0}
  - {channel: leader/qkd, publish: [leader], lane: command, lifespan_s: 5.0}
  - {channel: crypto/qkd, publish: [crypto], lane: command, lifespan_s: 5.0}
  - {channel: leader/heartbeat, publish: [leader], lane: telemetry, lifespan_s: 1.0}
  - {channel: "{member}/telemetry", publish: [drone], lane: telemetry, lifespan_s: 1.0}
  - {channel: "{member}/ack", publish: [drone], lane: command, lifespan_s: 2.0}
  - {channel: "**", publish: [any], lane: bulk, lifespan_s: 5.0}

services:
  # requests unsigned, responses signed: forged responses could shift trajectories in time
  - service: crypto/clock
    request: [any]
    respond: [crypto]
    lane: telemetry
    respond_lane: command
    lifespan_s: 1.0
  - {service: crypto/rotate, request: [operator], respond: [crypto], lane: command, lifespan_s: 2.0}
  - {service: crypto/evict, request: [operator], respond: [crypto], lane: command, lifespan_s: 2.0}
  - {service: leader/steps, request: [operator, gateway], respond: [leader], lane: command, lifespan_s: 2.0}
  - {service: path_moderation/moderate, request: [leader], respond: [moderator], lane: plan, lifespan_s: 5.0}
"""
