"""Base class of all nodes: a lifecycle (managed) node that starts itself and exposes no service.

The services that rclpy creates by default can be called by anyone on the network, without authentication:
transitions, parameters, type description. Those of the first two kinds exist only with the node parameter
`expose_services`, for a bench. Transitions are triggered in the process itself; parameters are read-only
while the node is active.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_service import ParameterService
from rclpy.timer import Timer

from chimera_ros.parent_watch import ParentWatch

from .log import log
from .names import DEFAULT_NAMESPACE
from .parameters import ParameterError, declare, problem, read

P = TypeVar("P")

EXPOSE_SERVICES: Final = "expose_services"
EXPOSED: Final = (
    "expose_services is true: anyone on this network can change this node's state and parameters, "
    "without authentication; for a bench only"
)


class SetupError(Exception):
    """A node cannot start; the text is one sentence for the user: what, where, and the remedy."""


class SwarmNode(LifecycleNode, Generic[P]):
    """A node of the swarm around a pure core.

    A subclass overrides `setup` (configure: load and check keys, build the core), `begin` (activate: join
    the swarm), `pause` (deactivate), `close` (release everything) and `wipe` (erase key material and bring
    the vehicle to a safe state). Each may raise `SetupError` with one sentence for the user.

    Nothing secret and no position may be logged: /rosout is not encrypted.

    Args:
        name: default node name; remapping (``-r __node:=…``) takes precedence.
        parameters_type: frozen dataclass made with `parameters.parameter`; None declares nothing.
        namespace: default ROS namespace, which is also the swarm's; remapping (``-r __ns:=…``) takes
        precedence.
        overrides: parameter values that take precedence over the command line, for tests and embedding.
    """

    def __init__(
        self,
        name: str,
        parameters_type: type[P] | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        overrides: dict[str, Any] | None = None,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
    ) -> None:
        self._parameters_type = parameters_type
        self._active = False
        self._failing: str | None = None
        self._failure: str | None = None
        self._parent = ParentWatch()
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        values = {**(overrides or {}), "start_type_description_service": False}
        # In two steps, as LifecycleNode does: only a node knows its parameters from files and command line.
        Node.__init__(
            self,
            name,
            namespace=namespace,
            context=context,
            cli_args=list(cli_args) if cli_args is not None else None,
            start_parameter_services=False,
            parameter_overrides=[Parameter(key, value=value) for key, value in values.items()],
        )
        self._exposes_services = self.start_option(EXPOSE_SERVICES, default=False)
        LifecycleNodeMixin.__init__(self, enable_communication_interface=self._exposes_services)
        if self._exposes_services:
            self._parameter_service = ParameterService(self)
            log(self, "warning", EXPOSED)
        self.parameters: P = None  # type: ignore[assignment]  # set before any hook runs
        self._on_stop_spinning: Callable[[], None] | None = None
        self.add_on_set_parameters_callback(self._check_new_values)

    # Hooks ---------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Configure: load and check keys, build the core. Nothing is sent yet."""

    def begin(self) -> None:
        """Activate: join the swarm."""

    def pause(self) -> None:
        """Deactivate: stop sending."""

    def close(self) -> None:
        """Release everything that `setup` created. At most once per `setup`, also after a failed one."""

    def wipe(self) -> None:
        """Erase key material and bring the vehicle to a safe state; called on error, must not raise."""

    # What subclasses and the runner use ----------------------------------------------------------------

    @property
    def active(self) -> bool:
        """True if the lifecycle state is *active*."""
        return self._active

    @property
    def failure(self) -> str | None:
        """Why the last transition failed, one sentence; None if none did."""
        return self._failure

    @property
    def swarm_namespace(self) -> str:
        """Namespace of the swarm: the node's own."""
        return self.get_namespace()

    @property
    def parameters_type(self) -> type[P] | None:
        """The dataclass that declares the parameters."""
        return self._parameters_type

    @property
    def launched(self) -> bool:
        """True if `ros2 launch` has started this process."""
        return self._parent.launched

    @property
    def exposes_services(self) -> bool:
        """True if this node offers lifecycle and parameter services to everyone on the network."""
        return self._exposes_services

    def start_option(self, name: str, *, default: bool) -> bool:
        """Value of a boolean parameter that is needed before the parameters are declared."""
        given = self._parameter_overrides.get(name)
        return given.value if given is not None and isinstance(given.value, bool) else default

    def declare_parameters_only(self) -> None:
        """Declare and check the parameters; required ones may be missing yet. Raises ParameterError."""
        if self._parameters_type is not None:
            declare(self, self._parameters_type)

    def load_parameters(self) -> None:
        """Declare the parameters, check and take over their present values. Raises ParameterError."""
        self.declare_parameters_only()
        if self._parameters_type is not None:
            self.parameters = read(self, self._parameters_type)

    def create_steady_timer(self, period_s: float, callback: Any) -> Timer:
        """A timer on the monotonic clock, independent of /clock: for failsafes, security and control."""
        return self.create_timer(period_s, callback, clock=self._steady_clock)

    def on_stop_spinning(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the node asks for its executor to stop; set by `run_node`."""
        self._on_stop_spinning = callback

    def stop_spinning(self) -> None:
        """Stop the executor after the present callback."""
        if self._on_stop_spinning is not None:
            self._on_stop_spinning()

    def is_orphaned(self) -> bool:
        """True once the process that started this one and watches over it has ended."""
        return self._parent.ended

    def stop_requested(self, count: int) -> bool:
        """Called at the first request to stop, and at a second one; True if the first needs time.

        Whoever returns True calls `stop_spinning` when done.
        """
        return False

    def autostart(self) -> bool:
        """Configure and activate; False, with `failure` set, if either failed."""
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        return self.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def fail(self, reason: str) -> None:
        """Enter error processing from any state: keys are erased, the node becomes unconfigured."""
        log(self, "error", reason)
        self._failure = reason
        if self._active:
            self._failing = reason
            self.trigger_deactivate()  # reports ERROR, which leads to on_error
        else:
            self._safely(self.wipe)

    def end(self) -> None:
        """Shut down from any state: pause, close, wipe. Idempotent."""
        label = self._state_machine.current_state[1]
        if label in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()
        self._safely(self.wipe)

    # Lifecycle -----------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load parameters and run `setup`."""
        try:
            self.load_parameters()
            self.setup()
        except Exception as error:
            self._report("cannot start", error)
            self._safely(self.close)
            self._safely(self.wipe)
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run `begin`."""
        self._active = True  # before `begin`, whose callbacks may read it
        try:
            self.begin()
        except Exception as error:
            self._active = False
            self._report("cannot join the swarm", error)
            self._safely(self.wipe)
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run `pause`; after `fail` report an error instead."""
        self._active = False
        if self._failing is not None:
            self._failing = None
            return TransitionCallbackReturn.ERROR
        self._safely(self.pause)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run `close` and `wipe`."""
        self._safely(self.close)
        self._safely(self.wipe)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run `pause` if active, then `close` and `wipe`."""
        if self._active:
            self._active = False
            self._safely(self.pause)
        self._safely(self.close)
        self._safely(self.wipe)
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run `wipe` and `close`; the node is unconfigured afterwards."""
        self._active = False
        self._safely(self.wipe)
        self._safely(self.close)
        return TransitionCallbackReturn.SUCCESS

    def _check_new_values(self, parameters: list[Parameter]) -> SetParametersResult:
        if self._active:
            return SetParametersResult(
                successful=False, reason="parameters are read-only while the node is active"
            )
        if self._parameters_type is not None:
            for each in parameters:
                if reason := problem(self._parameters_type, each.name, each.value):
                    return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _report(self, what: str, error: Exception) -> None:
        # Only texts written for the user are logged: those of other exceptions may contain data.
        expected = isinstance(error, (SetupError, ParameterError)) or getattr(error, "for_people", False)
        detail = str(error) if expected else f"{type(error).__name__} at {raised_at(error)}"
        self._failure = f"{self.get_name()} {what}: {detail}"
        log(self, "error", self._failure)

    def _safely(self, hook: Any) -> None:
        try:
            hook()
        except Exception as error:
            log(self, "error", f"{hook.__name__} failed: {type(error).__name__} at {raised_at(error)}")


def raised_at(error: BaseException) -> str:
    """File and line where an exception was raised, without its text, which may contain data."""
    trace = error.__traceback__
    if trace is None:
        return "unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"


def boot_time_s() -> float:
    """Seconds of the boot-time clock: monotonic, counts suspend, ignores /clock. The `now` of all cores."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_time_ns() -> int:
    """The same in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
