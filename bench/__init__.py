"""Measurements against other libraries; nothing here is installed or imported by Faltung."""
