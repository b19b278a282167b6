#!/usr/bin/env python
"""Run a management command: ``python manage.py serve``, ``demo``, ``simulate`` …"""

from __future__ import annotations

from director.__main__ import main

if __name__ == "__main__":
    main()
