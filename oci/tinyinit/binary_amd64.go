package tinyinit

import _ "embed"

//go:embed init_amd64.bin
var program []byte
