# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of a running server: ``nitrohb serve --api``. It needs ``nitrohb[api]``.

=============  ======================================================================
``address``    its address, and errors with their remedies; imports no third-party package
``requests``   limits and checks of requests
``streaming``  ``/events``: the latest events, as a stream
``metrics``    ``/metrics``: counters for Prometheus
``schema``     ``/openapi.json``: a description for programs
``state``      what the interface knows about the heartbeat server
``app``        the ASGI application: every endpoint
``serving``    the HTTP server, and the fair queue that protects heartbeats
=============  ======================================================================

Each module imports only from those above it.
"""
