"""First form."""
from __future__ import annotations
from datetime import date
import numpy as np
from skyframe.calendar import day_of
from skyframe.data.synthetic.world import Frame, World
def image_day(world: World, year: int) -> int:
    return day_of(date(year, 6, 20))
def tile(world, frame, year, draw=True):
    e=np.zeros(0,np.float32)
    return np.full((3,frame.height,frame.width),90,np.uint8), {"class":e.astype(np.uint8),"y_m":e,"x_m":e.copy(),"height_m":e,"width_m":e}
