"""Campaigns under fire on every engine, and the judgement of what came of them, from outside."""
