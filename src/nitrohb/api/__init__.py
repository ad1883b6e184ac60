# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface to a running server: ``nitrohb serve --api``, the extra ``nitrohb[api]``.

===============  ===========================================================================
``address``      where it listens; nothing but the standard library
``problems``     what went wrong, as application/problem+json
``places``       how many may be answered at a time by what takes long
``inputs``       what a client may ask, read from JSON
``metrics``      what the server has done so far, in figures
``feed``         what it does, as it happens, for any number of readers
``backend``      what is known of the heartbeat server, and asked of it
``guard``        who may ask at all, and how much he may send
``stream``       the response that sends what happens
``openapi``      what can be asked, as an OpenAPI document
``page``         what a browser is shown
``app``          the ASGI application: what is answered to whom
``turns``        whose turn it is, so that no heartbeat has to wait for clients
``serving``      connections, served by Hypercorn
===============  ===========================================================================

Each imports only from those above it.
"""
