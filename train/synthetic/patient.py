"""A parametric torso: every organ is a function of world mm, so that any axial slice can be painted by itself.

Template coordinates are LPS mm of a medium-sized adult: x grows to the patient's left, y to the back, z to the head; z
= 0 is the disc L5/S1, the lungs' apices lie near 480, the hip joints near -110. Solid organs are lofts (closed contours
interpolated along z), tubes are sweeps (spheres along a path), and bones a little of both. A patient deforms the
template: body size, habitus, organ shapes and positions, a smooth random warp in the plane, and the HU of every tissue
by contrast phase.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from train.synthetic import abdomen, bowel, chest, skeleton, vessels, wall
from train.synthetic.anatomy import Anatomy
from train.synthetic.canvas import Canvas, Frame
from train.synthetic.shapes import Array


class Patient(Anatomy):
    """One random patient; `paint` shows any axial slice of it as tissues."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        chest.grow_chest(self, rng)
        abdomen.grow_abdomen(self, rng)
        bowel.grow_bowel(self, rng)
        vessels.grow_vessels(self, rng)
        skeleton.grow_bones(self, rng)
        chest.grow_lung_vessels(self, rng)
        vessels.grow_nodes(self, rng)

    def paint(
        self,
        z_mm: float,
        frame: Frame,
        oversampling: int = 2,
        thickness: float = 1.0,
        behind: Image.Image | None = None,
    ) -> Array:
        """Tissue codes, uint8 (size * oversampling, same), of the axial plane at world z.

        `thickness` mm keeps thin vessels from vanishing between planes; `behind` is a picture of tissues to paint on,
        such as the couch.
        """
        z = self.template_z(z_mm)
        canvas = Canvas(frame, lambda points: self.to_world(points, z), oversampling, behind)
        wall.paint_wall(self, canvas, z)
        chest.paint_lungs(self, canvas, z, thickness)
        chest.paint_mediastinum(self, canvas, z)
        abdomen.paint_abdomen(self, canvas, z, thickness)
        abdomen.paint_pelvis(self, canvas, z)
        skeleton.paint_spine(self, canvas, z)
        skeleton.paint_ribs(self, canvas, z)
        return canvas.array()

    def outline(self, z: float) -> Array:
        """(64, 2) skin at template z."""
        return wall.outline(self, z)
