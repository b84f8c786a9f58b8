"""The environment of one simulated run: roles, clients, servers, observer.

Roles import some modules on first use. Here they are imported beforehand: an import reads files,
clocks and entropy, so the first run of a process would differ from the next ones.
"""

import holdfast.handlers.builtin.http_request
import holdfast.handlers.builtin.send_email
import holdfast.telemetry.export  # noqa: F401
