"""Tests of Mixer. They mirror `mixer/`; `components/` starts the real servers that they need."""
