"""The secure layer on rclpy: names, QoS, conversion, sessions, lifecycle."""
