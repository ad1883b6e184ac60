# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of a running server: ``nitrohb serve --api``. It needs ``nitrohb[api]``.

=============  ======================================================================
``address``    where it listens, and why it cannot; it loads quickly
``requests``   the rules for requests, and how a request is refused
``streaming``  ``/events``: the latest events, as a stream
``metrics``    ``/metrics``: counters for Prometheus
``schema``     ``/openapi.json``: what can be asked
``state``      what the interface knows about the heartbeat server
``app``        the ASGI application: every endpoint
``serving``    the HTTP server, and the fair queue that protects heartbeats
=============  ======================================================================

Each module imports only from those above it.
"""
