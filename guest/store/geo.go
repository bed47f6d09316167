package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // an image made of the binary alone has no time zones

	"github.com/oschwald/maxminddb-golang/v2"
)

// databaseBytesMax bounds a MaxMind database. The free one of cities has 60 MB, the
// largest that are sold some hundred.
const databaseBytesMax = 1 << 30

// Geo says where addresses are, as Fastly's documents do. It may be used
// concurrently.
type Geo struct {
	opts      GeoOptions
	file      *live[map[netip.Addr]json.RawMessage]
	databases []*live[*maxminddb.Reader]
}

// NewGeo opens all that the options name.
func NewGeo(opts GeoOptions, log *slog.Logger) (*Geo, error) {
	g := &Geo{opts: opts}
	if opts.File != "" {
		file, err := newLive(opts.File, log, ReadGeo)
		if err != nil {
			return nil, err
		}
		g.file = file
	}
	for _, path := range opts.MaxMind {
		database, err := newLiveOf(path, databaseBytesMax, log, readMaxMind)
		if err != nil {
			return nil, err
		}
		g.databases = append(g.databases, database)
	}
	return g, nil
}

// Lookup returns the document about an address, nil if there is none.
func (g *Geo) Lookup(addr netip.Addr) json.RawMessage {
	addr = addr.WithZone("")
	if document := g.listed(addr); document != nil {
		return document
	}
	if plain := addr.Unmap(); plain != addr {
		return g.Lookup(plain)
	}
	if len(g.databases) > 0 {
		if document := g.ask(addr); document != nil {
			return document
		}
	}
	if addr.IsLoopback() && !g.opts.NoDefaultLoopback {
		return loopback
	}
	return nil
}

func (g *Geo) listed(addr netip.Addr) json.RawMessage {
	if g.file != nil {
		return g.file.get()[addr]
	}
	return g.opts.Addresses[addr]
}

// document is what Fastly says about an address.
type document struct {
	ASName           string   `json:"as_name"`
	ASNumber         int      `json:"as_number"`
	AreaCode         int      `json:"area_code"`
	City             string   `json:"city"`
	ConnSpeed        string   `json:"conn_speed"`
	ConnType         string   `json:"conn_type"`
	Continent        string   `json:"continent"`
	CountryCode      string   `json:"country_code"`
	CountryCode3     string   `json:"country_code3"`
	CountryName      string   `json:"country_name"`
	Latitude         *float64 `json:"latitude"`
	Longitude        *float64 `json:"longitude"`
	MetroCode        int      `json:"metro_code"`
	PostalCode       string   `json:"postal_code"`
	ProxyDescription string   `json:"proxy_description"`
	ProxyType        string   `json:"proxy_type"`
	Region           string   `json:"region"`
	UTCOffset        int      `json:"utc_offset"` // hours * 100 + minutes
}

// loopback is where the local machine is if nothing else says so.
var loopback = func() json.RawMessage {
	latitude, longitude := 37.77869, -122.39557
	data, err := json.Marshal(document{
		ASName: "Fastly, Inc", ASNumber: 54113, AreaCode: 415, City: "San Francisco", ConnSpeed: "broadband", ConnType: "wired",
		Continent: "NA", CountryCode: "US", CountryCode3: "USA", CountryName: "United States of America",
		Latitude: &latitude, Longitude: &longitude, PostalCode: "94107", ProxyDescription: "?", ProxyType: "?",
		Region: "CA", UTCOffset: -700,
	})
	if err != nil {
		panic(err)
	}
	return data
}()

// CheckMaxMind says what is wrong with a database.
func CheckMaxMind(path string) error {
	data, err := readUpTo(path, databaseBytesMax)
	if err != nil {
		return fmt.Errorf("the file cannot be read: %w", err)
	}
	_, err = readMaxMind(data)
	return err
}

func readMaxMind(data []byte) (*maxminddb.Reader, error) {
	reader, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, fmt.Errorf("want a MaxMind database (.mmdb): %w", err)
	}
	return reader, nil
}

// record is what is used of MaxMind's databases: City, Country, Enterprise, ISP,
// ASN, Connection-Type and Anonymous-IP have parts of it.
type record struct {
	City struct {
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"city"`
	Continent struct {
		Code string `maxminddb:"code"`
	} `maxminddb:"continent"`
	Country struct {
		Code  string            `maxminddb:"iso_code"`
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"country"`
	Location struct {
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
		Metro     int      `maxminddb:"metro_code"`
		Zone      string   `maxminddb:"time_zone"`
	} `maxminddb:"location"`
	Postal struct {
		Code string `maxminddb:"code"`
	} `maxminddb:"postal"`
	Subdivisions []struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"subdivisions"`
	Traits         traits `maxminddb:"traits"` // of Enterprise
	traits                // of ISP, ASN and Connection-Type
	AnonymousVPN   bool   `maxminddb:"is_anonymous_vpn"`
	TorExit        bool   `maxminddb:"is_tor_exit_node"`
	PublicProxy    bool   `maxminddb:"is_public_proxy"`
	Hosting        bool   `maxminddb:"is_hosting_provider"`
	ConnectionType string `maxminddb:"connection_type"`
}

type traits struct {
	ASNumber       int    `maxminddb:"autonomous_system_number"`
	ASName         string `maxminddb:"autonomous_system_organization"`
	ConnectionType string `maxminddb:"connection_type"`
}

// ask makes a document of what the databases know; nil if they know nothing.
func (g *Geo) ask(addr netip.Addr) json.RawMessage {
	d := document{ProxyDescription: "?", ProxyType: "?"}
	known := false
	for _, database := range g.databases {
		result := database.get().Lookup(addr)
		var r record
		if !result.Found() || result.Decode(&r) != nil {
			continue // one record may be broken, in a file that is read
		}
		known = true
		d.add(&r)
	}
	if !known {
		return nil
	}
	data, err := json.Marshal(d)
	if err != nil { // a NaN in the database
		return nil
	}
	return data
}

// add fills in what is not known yet.
func (d *document) add(r *record) {
	text := func(into *string, from ...string) {
		for _, s := range from {
			if *into == "" {
				*into = s
			}
		}
	}
	number := func(into *int, from ...int) {
		for _, n := range from {
			if *into == 0 {
				*into = n
			}
		}
	}
	text(&d.ASName, r.ASName, r.Traits.ASName)
	number(&d.ASNumber, r.ASNumber, r.Traits.ASNumber)
	text(&d.City, r.City.Names["en"])
	text(&d.Continent, r.Continent.Code)
	text(&d.CountryCode, r.Country.Code)
	text(&d.CountryCode3, countryCode3(r.Country.Code))
	text(&d.CountryName, r.Country.Names["en"])
	if d.Latitude == nil {
		d.Latitude, d.Longitude = r.Location.Latitude, r.Location.Longitude
	}
	number(&d.MetroCode, r.Location.Metro)
	text(&d.PostalCode, r.Postal.Code)
	if len(r.Subdivisions) > 0 {
		text(&d.Region, r.Subdivisions[0].Code)
	}
	if zone, err := time.LoadLocation(r.Location.Zone); err == nil && r.Location.Zone != "" {
		_, seconds := time.Now().In(zone).Zone()
		number(&d.UTCOffset, seconds/3600*100+seconds%3600/60)
	}
	switch connection := strings.ToLower(r.ConnectionType + r.Traits.ConnectionType); connection {
	case "":
	case "cellular":
		text(&d.ConnType, "mobile")
		text(&d.ConnSpeed, "mobile")
	case "dialup":
		text(&d.ConnType, "wired")
		text(&d.ConnSpeed, "dialup")
	case "satellite":
		text(&d.ConnType, "satellite")
		text(&d.ConnSpeed, "satellite")
	default: // Cable/DSL, Corporate
		text(&d.ConnType, "wired")
		text(&d.ConnSpeed, "broadband")
	}
	proxy := func(is bool, kind, description string) {
		if is && d.ProxyType == "?" {
			d.ProxyType, d.ProxyDescription = kind, description
		}
	}
	proxy(r.TorExit, "anonymous", "tor-exit")
	proxy(r.AnonymousVPN, "anonymous", "vpn")
	proxy(r.PublicProxy, "public", "?")
	proxy(r.Hosting, "hosting", "cloud")
}

// ReadGeo reads documents by address from JSON.
func ReadGeo(data []byte) (map[netip.Addr]json.RawMessage, error) {
	object, err := readObject(data)
	if err != nil {
		return nil, err
	}
	addresses := make(map[netip.Addr]json.RawMessage, len(object))
	for text, raw := range object {
		addr, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("address %s: want one like 192.0.2.1 or 2001:db8::1", strconv.Quote(text))
		case raw[0] != '{':
			return nil, fmt.Errorf("address %q: want an object", text)
		}
		addresses[addr] = raw
	}
	return addresses, nil
}

// countryCode3 is a country's three letters (ISO 3166-1 alpha-3) by its two.
func countryCode3(two string) string {
	if i := strings.Index(countries, " "+two); len(two) == 2 && i >= 0 {
		return countries[i+3 : i+6]
	}
	return ""
}

// countries are all of ISO 3166-1: two letters, then three.
const countries = " ADAND AEARE AFAFG AGATG AIAIA ALALB AMARM AOAGO AQATA ARARG ASASM ATAUT AUAUS AWABW AXALA AZAZE" +
	" BABIH BBBRB BDBGD BEBEL BFBFA BGBGR BHBHR BIBDI BJBEN BLBLM BMBMU BNBRN BOBOL BQBES BRBRA BSBHS BTBTN BVBVT BWBWA BYBLR BZBLZ" +
	" CACAN CCCCK CDCOD CFCAF CGCOG CHCHE CICIV CKCOK CLCHL CMCMR CNCHN COCOL CRCRI CUCUB CVCPV CWCUW CXCXR CYCYP CZCZE" +
	" DEDEU DJDJI DKDNK DMDMA DODOM DZDZA ECECU EEEST EGEGY EHESH ERERI ESESP ETETH FIFIN FJFJI FKFLK FMFSM FOFRO FRFRA" +
	" GAGAB GBGBR GDGRD GEGEO GFGUF GGGGY GHGHA GIGIB GLGRL GMGMB GNGIN GPGLP GQGNQ GRGRC GSSGS GTGTM GUGUM GWGNB GYGUY" +
	" HKHKG HMHMD HNHND HRHRV HTHTI HUHUN IDIDN IEIRL ILISR IMIMN ININD IOIOT IQIRQ IRIRN ISISL ITITA JEJEY JMJAM JOJOR JPJPN" +
	" KEKEN KGKGZ KHKHM KIKIR KMCOM KNKNA KPPRK KRKOR KWKWT KYCYM KZKAZ LALAO LBLBN LCLCA LILIE LKLKA LRLBR LSLSO LTLTU LULUX LVLVA LYLBY" +
	" MAMAR MCMCO MDMDA MEMNE MFMAF MGMDG MHMHL MKMKD MLMLI MMMMR MNMNG MOMAC MPMNP MQMTQ MRMRT MSMSR MTMLT MUMUS MVMDV MWMWI MXMEX MYMYS MZMOZ" +
	" NANAM NCNCL NENER NFNFK NGNGA NINIC NLNLD NONOR NPNPL NRNRU NUNIU NZNZL OMOMN PAPAN PEPER PFPYF PGPNG PHPHL PKPAK PLPOL PMSPM PNPCN PRPRI PSPSE PTPRT PWPLW PYPRY" +
	" QAQAT REREU ROROU RSSRB RURUS RWRWA SASAU SBSLB SCSYC SDSDN SESWE SGSGP SHSHN SISVN SJSJM SKSVK SLSLE SMSMR SNSEN SOSOM SRSUR SSSSD STSTP SVSLV SXSXM SYSYR SZSWZ" +
	" TCTCA TDTCD TFATF TGTGO THTHA TJTJK TKTKL TLTLS TMTKM TNTUN TOTON TRTUR TTTTO TVTUV TWTWN TZTZA UAUKR UGUGA UMUMI USUSA UYURY UZUZB" +
	" VAVAT VCVCT VEVEN VGVGB VIVIR VNVNM VUVUT WFWLF WSWSM YEYEM YTMYT ZAZAF ZMZMB ZWZWE "
