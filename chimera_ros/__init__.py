"""A drone swarm on ROS 2 whose every message is protected by post-quantum cryptography."""

from pkgutil import extend_path

# The compiled messages (chimera_ros.msg, chimera_ros.srv) may live in another directory than the
# rooms: a source checkout beside an installed package. Both are one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
