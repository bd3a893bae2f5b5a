package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// document is as much of SPDX 2.3 as is needed.
type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []pkg          `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	ID        string     `json:"SPDXID"`
	Name      string     `json:"name"`
	Version   string     `json:"versionInfo"`
	Download  string     `json:"downloadLocation"`
	Analyzed  bool       `json:"filesAnalyzed"`
	Checksums []checksum `json:"checksums,omitempty"`
	Refs      []ref      `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Of   string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom VERSION PROGRAM...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(version string, programs []string) error {
	seconds, _ := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64) // without it the epoch's begin
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "berth-" + version,
		Namespace: "https://spdx.org/spdxdocs/berth-" + version,
		Creation:  creation{time.Unix(seconds, 0).UTC().Format(time.RFC3339), []string{"Tool: berth-sbom"}},
	}
	for _, p := range programs {
		if err := d.add(version, p); err != nil {
			return err
		}
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	return e.Encode(d)
}

// add lists a program, the modules in it and the Go that built it.
func (d *document) add(version, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	id := spdxID(filepath.Base(program), version)
	d.Packages = append(d.Packages, pkg{
		ID: id, Name: filepath.Base(program), Version: version, Download: "NOASSERTION",
		Checksums: []checksum{{"SHA256", hex.EncodeToString(sum[:])}},
	})
	d.relate("SPDXRef-DOCUMENT", "DESCRIBES", id)
	d.contain(id, "stdlib", info.GoVersion)
	for _, m := range info.Deps {
		for m.Replace != nil {
			m = m.Replace
		}
		d.contain(id, m.Path, m.Version)
	}
	return nil
}

func (d *document) contain(program, module, version string) {
	id := spdxID(module, version)
	if !slices.ContainsFunc(d.Packages, func(p pkg) bool { return p.ID == id }) {
		d.Packages = append(d.Packages, pkg{
			ID: id, Name: module, Version: version, Download: "NOASSERTION",
			Refs: []ref{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + module + "@" + version}},
		})
	}
	d.relate(program, "CONTAINS", id)
}

func (d *document) relate(of, how, to string) {
	d.Relationships = append(d.Relationships, relationship{of, how, to})
}

func spdxID(name, version string) string {
	return "SPDXRef-" + regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(name+"-"+version, "-")
}
