"""SkyFrame encoders inside others' harnesses: one thin module each, imported only by those who have the harness.

| module | harness | class |
|---|---|---|
| `torchgeo_bench` | torchgeo-bench 0.4 | `SkyFrameBench`, a `BenchModel`: one image, pooled |
| `pangaea` | PANGAEA | `SkyFrameEncoder`, an `Encoder`: optical and SAR, one date or several |
| `terratorch` | TerraTorch 1.2 | backbone `skyframe` in its registry: one image or several dates |
"""
