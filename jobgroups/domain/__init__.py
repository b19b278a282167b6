"""Pure rules of groups, jobs and attempts: no Django, no asyncio, no I/O."""
