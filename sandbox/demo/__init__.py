"""The main job from beginning to end against the sandbox, in real processes: `make demo`."""

from sandbox.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
