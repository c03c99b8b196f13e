# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of `elivepatch`, one module each, in folders by subject; each has `register(commands)`.

Only these modules, their folders' included, know argparse. A command turns its arguments into frozen options
(elivepatch.client.options), calls a typed function of the rooms below and prints the result. `options` holds what
several commands share.
"""
