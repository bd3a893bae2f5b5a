//go:build race

package image

// raceDetector takes several times the memory.
const raceDetector = true
