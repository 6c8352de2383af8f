// Package qrcode draws addresses as QR codes, as SVG and as PNG.
package qrcode

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"

	"rsc.io/qr"
)

// quiet is the width of the empty border in modules (ISO/IEC 18004 asks for four).
const quiet = 4

// Code is an address as a QR code.
type Code struct{ code *qr.Code }

// New encodes text with the error correction that a printed code needs: a quarter of it may be unreadable.
func New(text string) (*Code, error) {
	code, err := qr.Encode(text, qr.Q)
	if err != nil {
		return nil, fmt.Errorf("encode %d bytes as a QR code: %w", len(text), err)
	}
	return &Code{code}, nil
}

// Side is the code's width in modules, its border included.
func (c *Code) Side() int { return c.code.Size + 2*quiet }

// SVG draws the code in black on white, one path.
func (c *Code) SVG() []byte {
	var path strings.Builder
	for y := range c.code.Size {
		for x := 0; x < c.code.Size; {
			run := 0
			for x+run < c.code.Size && c.code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
			}
			x += max(run, 1)
		}
	}
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %[1]d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%[1]dv%[1]dH0z"/><path d="%s"/></svg>`+"\n",
		c.Side(), path.String())
}

// PNG draws the code as an image of at most size pixels a side, and of at least one pixel a module.
func (c *Code) PNG(size int) ([]byte, error) {
	scale := max(size/c.Side(), 1)
	side := c.Side() * scale
	picture := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.White, color.Black})
	for y := range side {
		for x := range side {
			if c.code.Black(x/scale-quiet, y/scale-quiet) {
				picture.Pix[y*picture.Stride+x] = 1
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		return nil, fmt.Errorf("write a QR code as PNG: %w", err)
	}
	return b.Bytes(), nil
}
