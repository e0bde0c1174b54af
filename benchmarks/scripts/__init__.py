"""What runs in a process of its own: other ways to do what densenet-port does, and what needs a framework or numpy."""
