// Package test counts as test.
package test

const lines = 4
