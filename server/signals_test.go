package server

import (
	"strings"
	"testing"
)

func TestStacksNameTheCaller(t *testing.T) {
	if !strings.Contains(stacks(), "TestStacksNameTheCaller") {
		t.Error("the goroutine that asks is missing")
	}
}
