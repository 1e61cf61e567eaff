"""Cities that the simulated Internet is built on: coordinates and populations of real places.

Approximate city centres (two decimals, about 1 km) and metropolitan populations in thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

REGIONS = (
    "Europe",
    "North America",
    "South America",
    "Africa",
    "Middle East",
    "South Asia",
    "East Asia",
    "Oceania",
)


@dataclass(frozen=True)
class City:
    """A place; `region` indexes `REGIONS`, population in thousands."""

    name: str
    country: str
    region: int
    latitude: float
    longitude: float
    population: int


# name, country, latitude, longitude, population in thousands
_CITIES = {
    "Europe": """
London,GB,51.51,-0.13,9600; Manchester,GB,53.48,-2.24,2750; Edinburgh,GB,55.95,-3.19,550
Birmingham,GB,52.48,-1.90,2600; Dublin,IE,53.35,-6.26,1400; Paris,FR,48.86,2.35,11100
Lyon,FR,45.76,4.84,1700; Marseille,FR,43.30,5.37,1600; Bordeaux,FR,44.84,-0.58,1000
Strasbourg,FR,48.57,7.75,480; Brussels,BE,50.85,4.35,2100; Amsterdam,NL,52.37,4.90,2500
Rotterdam,NL,51.92,4.48,1010; Groningen,NL,53.22,6.57,230; Luxembourg,LU,49.61,6.13,130
Frankfurt,DE,50.11,8.68,2300; Berlin,DE,52.52,13.40,3600; Hamburg,DE,53.55,9.99,1800
Munich,DE,48.14,11.58,1500; Cologne,DE,50.94,6.96,1100; Stuttgart,DE,48.78,9.18,630
Nuremberg,DE,49.45,11.08,520; Dresden,DE,51.05,13.74,560; Zurich,CH,47.37,8.54,1400
Geneva,CH,46.20,6.14,620; Vienna,AT,48.21,16.37,1950; Graz,AT,47.07,15.44,300
Prague,CZ,50.08,14.44,1320; Brno,CZ,49.20,16.61,400; Bratislava,SK,48.15,17.11,440
Budapest,HU,47.50,19.04,1780; Ljubljana,SI,46.06,14.51,290; Zagreb,HR,45.81,15.98,700
Belgrade,RS,44.79,20.45,1400; Sarajevo,BA,43.86,18.41,340; Skopje,MK,42.00,21.43,600
Sofia,BG,42.70,23.32,1290; Bucharest,RO,44.43,26.10,1800; Cluj-Napoca,RO,46.77,23.60,330
Chisinau,MD,47.01,28.86,490; Kyiv,UA,50.45,30.52,3000; Lviv,UA,49.84,24.03,720
Odesa,UA,46.48,30.72,1010; Kharkiv,UA,49.99,36.23,1430; Warsaw,PL,52.23,21.01,1800
Krakow,PL,50.06,19.94,780; Gdansk,PL,54.35,18.65,470; Poznan,PL,52.41,16.93,540
Vilnius,LT,54.69,25.28,540; Riga,LV,56.95,24.11,620; Tallinn,EE,59.44,24.75,450
Helsinki,FI,60.17,24.94,1300; Tampere,FI,61.50,23.76,340; Stockholm,SE,59.33,18.07,1650
Gothenburg,SE,57.71,11.97,610; Malmo,SE,55.60,13.00,350; Oslo,NO,59.91,10.75,1050
Bergen,NO,60.39,5.32,285; Tromso,NO,69.65,18.96,65; Copenhagen,DK,55.68,12.57,1370
Aarhus,DK,56.16,10.20,290; Reykjavik,IS,64.15,-21.94,230; Lisbon,PT,38.72,-9.14,2950
Porto,PT,41.15,-8.61,1310; Madrid,ES,40.42,-3.70,6700; Barcelona,ES,41.39,2.17,5600
Valencia,ES,39.47,-0.38,1600; Seville,ES,37.39,-5.98,1100; Milan,IT,45.46,9.19,3150
Rome,IT,41.90,12.50,4300; Naples,IT,40.85,14.27,2200; Turin,IT,45.07,7.69,1700
Palermo,IT,38.12,13.36,850; Athens,GR,37.98,23.73,3150; Thessaloniki,GR,40.64,22.94,810
Valletta,MT,35.90,14.51,210; Nicosia,CY,35.17,33.36,270; Moscow,RU,55.76,37.62,12600
Saint Petersburg,RU,59.93,30.34,5500; Yekaterinburg,RU,56.84,60.61,1500
Minsk,BY,53.90,27.57,2000; Tbilisi,GE,41.72,44.79,1080; Yerevan,AM,40.18,44.51,1090""",
    "North America": """
New York,US,40.71,-74.01,18800; Ashburn,US,39.04,-77.49,600; Washington,US,38.91,-77.04,5400
Boston,US,42.36,-71.06,4300; Philadelphia,US,39.95,-75.17,5700; Pittsburgh,US,40.44,-80.00,1700
Atlanta,US,33.75,-84.39,6000; Miami,US,25.76,-80.19,6100; Charlotte,US,35.23,-80.84,2200
Chicago,US,41.88,-87.63,8900; Detroit,US,42.33,-83.05,3500; Columbus,US,39.96,-83.00,1700
Minneapolis,US,44.98,-93.27,2900; Kansas City,US,39.10,-94.58,1700; St. Louis,US,38.63,-90.20,2200
Dallas,US,32.78,-96.80,6500; Houston,US,29.76,-95.37,6400; Austin,US,30.27,-97.74,2200
New Orleans,US,29.95,-90.07,1020; Denver,US,39.74,-104.99,2900; Salt Lake City,US,40.76,-111.89,1200
Phoenix,US,33.45,-112.07,4700; Las Vegas,US,36.17,-115.14,2800; Los Angeles,US,34.05,-118.24,12500
San Diego,US,32.72,-117.16,3300; San Jose,US,37.34,-121.89,1800; San Francisco,US,37.77,-122.42,3300
Portland,US,45.52,-122.68,2200; Seattle,US,47.61,-122.33,3500; Anchorage,US,61.22,-149.90,290
Honolulu,US,21.31,-157.86,870; Toronto,CA,43.65,-79.38,6300; Montreal,CA,45.50,-73.57,4300
Ottawa,CA,45.42,-75.70,1400; Halifax,CA,44.65,-63.58,440; Winnipeg,CA,49.90,-97.14,830
Calgary,CA,51.05,-114.07,1600; Vancouver,CA,49.28,-123.12,2600; Mexico City,MX,19.43,-99.13,22300
Guadalajara,MX,20.66,-103.35,5300; Monterrey,MX,25.69,-100.32,5000; Queretaro,MX,20.59,-100.39,1500
Guatemala City,GT,14.63,-90.51,3000; San Salvador,SV,13.69,-89.22,1100
San Jose CR,CR,9.93,-84.08,1400
Panama City,PA,8.98,-79.52,2000; Havana,CU,23.11,-82.37,2150; Kingston,JM,17.97,-76.79,600
Santo Domingo,DO,18.49,-69.93,3500; San Juan,PR,18.47,-66.11,2400""",
    "South America": """
Sao Paulo,BR,-23.55,-46.63,22600; Rio de Janeiro,BR,-22.91,-43.17,13700
Brasilia,BR,-15.79,-47.88,4800; Fortaleza,BR,-3.73,-38.53,4200; Porto Alegre,BR,-30.03,-51.23,4200
Curitiba,BR,-25.43,-49.27,3800; Belo Horizonte,BR,-19.92,-43.94,6200; Manaus,BR,-3.12,-60.02,2300
Recife,BR,-8.05,-34.88,4200; Buenos Aires,AR,-34.60,-58.38,15400; Cordoba,AR,-31.42,-64.18,1600
Mendoza,AR,-32.89,-68.84,1200; Montevideo,UY,-34.90,-56.16,1800; Asuncion,PY,-25.26,-57.58,3400
Santiago,CL,-33.45,-70.67,6900; Concepcion,CL,-36.83,-73.05,900; La Paz,BO,-16.50,-68.15,1900
Lima,PE,-12.05,-77.04,11200; Quito,EC,-0.18,-78.47,1950; Guayaquil,EC,-2.17,-79.92,3100
Bogota,CO,4.71,-74.07,11500; Medellin,CO,6.24,-75.58,4100; Cali,CO,3.45,-76.53,2850
Caracas,VE,10.48,-66.90,2950""",
    "Africa": """
Johannesburg,ZA,-26.20,28.05,10300; Cape Town,ZA,-33.92,18.42,4900; Durban,ZA,-29.86,31.02,3200
Gaborone,BW,-24.63,25.92,420; Windhoek,NA,-22.56,17.08,460; Harare,ZW,-17.83,31.05,1580
Lusaka,ZM,-15.39,28.32,3200; Maputo,MZ,-25.97,32.57,1850; Antananarivo,MG,-18.88,47.51,3900
Port Louis,MU,-20.16,57.50,150; Dar es Salaam,TZ,-6.79,39.21,7800; Nairobi,KE,-1.29,36.82,5300
Mombasa,KE,-4.04,39.67,1400; Kampala,UG,0.35,32.58,3900; Kigali,RW,-1.94,30.06,1250
Addis Ababa,ET,9.03,38.74,5500; Djibouti,DJ,11.59,43.15,600; Khartoum,SD,15.50,32.56,6300
Cairo,EG,30.04,31.24,22200; Alexandria,EG,31.20,29.92,5600; Tripoli,LY,32.89,13.19,1180
Tunis,TN,36.81,10.18,2450; Algiers,DZ,36.75,3.06,2900; Casablanca,MA,33.57,-7.59,3840
Dakar,SN,14.72,-17.47,3400; Abidjan,CI,5.36,-4.01,5700; Accra,GH,5.60,-0.19,2700
Lagos,NG,6.52,3.38,15900; Abuja,NG,9.06,7.49,3800; Douala,CM,4.05,9.70,4000
Kinshasa,CD,-4.44,15.27,16300; Luanda,AO,-8.84,13.29,9300""",
    "Middle East": """
Istanbul,TR,41.01,28.98,15800; Ankara,TR,39.93,32.86,5400; Izmir,TR,38.42,27.14,3100
Tel Aviv,IL,32.09,34.78,4400; Amman,JO,31.95,35.93,2250; Beirut,LB,33.89,35.50,2400
Baghdad,IQ,33.31,44.37,7700; Erbil,IQ,36.19,44.01,1000; Kuwait City,KW,29.38,47.99,3300
Riyadh,SA,24.71,46.68,7700; Jeddah,SA,21.49,39.19,4900; Manama,BH,26.23,50.59,700
Doha,QA,25.29,51.53,650; Dubai,AE,25.20,55.27,3000; Abu Dhabi,AE,24.45,54.38,1570
Muscat,OM,23.59,58.41,1650; Tehran,IR,35.69,51.39,9500; Shiraz,IR,29.59,52.58,1700
Baku,AZ,40.41,49.87,2430""",
    "South Asia": """
Mumbai,IN,19.08,72.88,21300; Delhi,IN,28.61,77.21,32900; Bengaluru,IN,12.97,77.59,13600
Chennai,IN,13.08,80.27,11800; Kolkata,IN,22.57,88.36,15300; Hyderabad,IN,17.39,78.49,10800
Pune,IN,18.52,73.86,7200; Karachi,PK,24.86,67.00,17200; Lahore,PK,31.55,74.34,13900
Islamabad,PK,33.68,73.05,1250; Dhaka,BD,23.81,90.41,23200; Colombo,LK,6.93,79.85,630
Kathmandu,NP,27.72,85.32,1570; Kabul,AF,34.56,69.21,4600; Tashkent,UZ,41.30,69.24,2600
Almaty,KZ,43.24,76.95,2000; Astana,KZ,51.17,71.43,1350; Bishkek,KG,42.87,74.59,1100""",
    "East Asia": """
Tokyo,JP,35.68,139.69,37200; Osaka,JP,34.69,135.50,19000; Nagoya,JP,35.18,136.91,9500
Fukuoka,JP,33.59,130.40,5500; Sapporo,JP,43.06,141.35,2670; Seoul,KR,37.57,126.98,9990
Busan,KR,35.18,129.08,3470; Taipei,TW,25.03,121.57,7000; Hong Kong,HK,22.32,114.17,7500
Guangzhou,CN,23.13,113.26,14300; Shanghai,CN,31.23,121.47,29200; Beijing,CN,39.90,116.41,21800
Chengdu,CN,30.57,104.07,9500; Wuhan,CN,30.59,114.31,8700; Ulaanbaatar,MN,47.89,106.91,1650
Manila,PH,14.60,120.98,14700; Cebu,PH,10.32,123.89,1000; Hanoi,VN,21.03,105.85,5250
Ho Chi Minh City,VN,10.82,106.63,9300; Phnom Penh,KH,11.56,104.92,2300
Vientiane,LA,17.98,102.63,720; Bangkok,TH,13.76,100.50,11100; Yangon,MM,16.87,96.20,5600
Kuala Lumpur,MY,3.14,101.69,8600; Penang,MY,5.41,100.33,800; Singapore,SG,1.35,103.82,6000
Jakarta,ID,-6.21,106.85,11200; Surabaya,ID,-7.26,112.75,3000; Medan,ID,3.60,98.67,2400
Vladivostok,RU,43.12,131.89,600; Novosibirsk,RU,55.03,82.92,1630
Bandar Seri Begawan,BN,4.90,114.94,240""",
    "Oceania": """
Sydney,AU,-33.87,151.21,5100; Melbourne,AU,-37.81,144.96,5200; Brisbane,AU,-27.47,153.03,2500
Perth,AU,-31.95,115.86,2100; Adelaide,AU,-34.93,138.60,1370; Darwin,AU,-12.46,130.84,150
Hobart,AU,-42.88,147.33,250; Auckland,NZ,-36.85,174.76,1670; Wellington,NZ,-41.29,174.78,420
Christchurch,NZ,-43.53,172.64,390; Suva,FJ,-18.12,178.45,190; Noumea,NC,-22.26,166.45,180
Port Moresby,PG,-9.44,147.18,410""",
}


def cities() -> list[City]:
    """All cities, region after region; a city's position in this list is its index everywhere."""
    found = []
    for region, name in enumerate(REGIONS):
        for entry in _CITIES[name].replace("\n", ";").split(";"):
            if entry.strip():
                city, country, latitude, longitude, population = entry.strip().split(",")
                place = (float(latitude), float(longitude), int(population))
                found.append(City(city, country, region, *place))
    return found
